package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// recorder keeps what a run has measured. One goroutine uses it at a time.
type recorder struct {
	values  map[cell][]float64
	reasons map[cell]string // by row name: why a side has no figures, or no more
	remarks []string
	failed  bool // something other than a refused request
}

// cell is a side's place in a metric's line; in reasons, a row's name stands in the metric's place.
type cell struct{ metric, side string }

func newRecorder() *recorder {
	return &recorder{values: map[cell][]float64{}, reasons: map[cell]string{}}
}

// add keeps one round's figures.
func (c *recorder) add(s *side, got sample) {
	for id, value := range got {
		at := cell{id, s.name}
		c.values[at] = append(c.values[at], value)
	}
}

// fail keeps why a side has no figures, or no more, in a row.
func (c *recorder) fail(r *row, s *side, step string, err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if !errors.Is(err, errRefused) {
		c.failed = true
		text = "round " + step + ": " + text
	}
	c.reasons[cell{r.name, s.name}] = text
}

// note is why a side has no more figures in a row, or "".
func (c *recorder) note(r *row, s *side) string { return c.reasons[cell{r.name, s.name}] }

// remark keeps a sentence for the end of the report, once.
func (c *recorder) remark(text string) {
	if !slices.Contains(c.remarks, text) {
		c.remarks = append(c.remarks, text)
	}
}

// missing lists the reasons, one line each.
func (c *recorder) missing() []string {
	var out []string
	for at, why := range c.reasons {
		out = append(out, fmt.Sprintf("%s, %s: %s", at.metric, at.side, why))
	}
	slices.Sort(out)
	return out
}
