package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// none fills a cell that has nothing to say.
const none = "–"

// judged renders the metrics that have or could have a floor: sides, limpet's share of etcd's figure, verdict.
func judged(rows []*row, sides []string, rec *recorder) string {
	head := append([]string{"row"}, sides...)
	t := [][]string{append(head, "limpet/etcd", "floor", "aim", "verdict")}
	for _, r := range rows {
		for _, m := range r.metrics {
			if m.beside {
				continue
			}
			line := []string{label(m)}
			for _, s := range sides {
				line = append(line, figure(rec.values[cell{m.id, s}]))
			}
			limpet, etcd := rec.values[cell{m.id, "limpet"}], rec.values[cell{m.id, "etcd"}]
			t = append(t, append(line, share(limpet, etcd), bound(m, m.floor), bound(m, m.aim), verdict(m, limpet, etcd)))
		}
	}
	return markdown(t)
}

// besides renders the metrics that stand beside, without verdicts.
func besides(rows []*row, sides []string, rec *recorder) string {
	head := append([]string{"beside it"}, sides...)
	t := [][]string{append(head, "limpet/etcd")}
	for _, r := range rows {
		for _, m := range r.metrics {
			if !m.beside {
				continue
			}
			line := []string{label(m)}
			for _, s := range sides {
				line = append(line, figure(rec.values[cell{m.id, s}]))
			}
			t = append(t, append(line, share(rec.values[cell{m.id, "limpet"}], rec.values[cell{m.id, "etcd"}])))
		}
	}
	if len(t) == 1 {
		return ""
	}
	return markdown(t)
}

// label is a metric's title with its unit, marked when less is better.
func label(m metric) string {
	text := m.title
	if m.less {
		text = "↓ " + text
	}
	if m.unit == "/s" {
		return text + " (1/s)"
	}
	return fmt.Sprintf("%s (%s)", text, m.unit)
}

// figure is a median with its ends, or – for none.
func figure(values []float64) string {
	s := spreadOf(values)
	switch {
	case s.n == 0:
		return none
	case number(s.min) == number(s.max):
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.min), number(s.max))
}

// share is the ratio of the medians, with the lowest and highest ratio of a single round.
func share(a, b []float64) string {
	ratio, ok := maybeRatio(a, b)
	if !ok {
		return none
	}
	if each := spreadOf(ratios(a, b)); each.n > 1 {
		return fmt.Sprintf("%.2f× (%.2f–%.2f)", ratio, each.min, each.max)
	}
	return fmt.Sprintf("%.2f×", ratio)
}

// maybeRatio is the ratio of the medians of a and b, if both are there.
func maybeRatio(a, b []float64) (float64, bool) {
	over, under := spreadOf(a), spreadOf(b)
	if over.n == 0 || under.n == 0 || under.median == 0 {
		return 0, false
	}
	return over.median / under.median, true
}

// bound is how a floor or an aim reads.
func bound(m metric, value float64) string {
	text := strconv.FormatFloat(value, 'f', -1, 64)
	switch {
	case m.floor == 0:
		return none
	case m.absolute:
		return "≤ " + text + " " + m.unit
	case m.less:
		return "≤ " + text + "×"
	}
	return "≥ " + text + "×"
}

// verdict tells whether limpet's figure keeps the floor, and the aim.
func verdict(m metric, limpet, etcd []float64) string {
	if m.floor == 0 || len(limpet) == 0 {
		return none
	}
	value := spreadOf(limpet).median
	if !m.absolute {
		var ok bool
		if value, ok = maybeRatio(limpet, etcd); !ok {
			return none
		}
	}
	keeps := func(limit float64) bool {
		if m.less {
			return value <= limit
		}
		return value >= limit
	}
	switch {
	case keeps(m.aim):
		return "met, aim too"
	case keeps(m.floor):
		return "met"
	}
	return "**below**"
}

// number prints a figure with about three digits, thousands apart.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 99.95:
		return thousands(int64(math.Round(v)))
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.9995 || v == 0:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// thousands sets a thin gap (U+202F) between groups of three digits.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return sign + digits
}

// markdown renders a table whose first line is its head.
func markdown(lines [][]string) string {
	var b strings.Builder
	for i, line := range lines {
		b.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|---:", len(line)-1) + "|\n")
		}
	}
	return b.String()
}
