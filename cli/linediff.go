package cli

import (
	"strings"

	"github.com/aymanbagabas/go-udiff/lcs"
)

// aroundChange is how many lines that are the same are shown beside a change.
const aroundChange = 2

// diffLine is one line of a comparison: ' ' in both texts, '-' in the first, '+' in
// the second.
type diffLine struct {
	sign byte
	text string
}

// diffLines compares two texts line by line.
func diffLines(before, after string) (out []diffLine) {
	a, b := splitLines(before), splitLines(after)
	add := func(sign byte, lines []string) {
		for _, l := range lines {
			out = append(out, diffLine{sign, l})
		}
	}
	at := 0
	for _, d := range lcs.DiffLines(a, b) {
		add(' ', a[at:d.Start])
		add('-', a[d.Start:d.End])
		add('+', b[d.ReplStart:d.ReplEnd])
		at = d.End
	}
	add(' ', a[at:])
	return out
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// nearChanges leaves out the lines that are far from any change; a line with the
// sign 0 stands for those that are left out.
func nearChanges(lines []diffLine) (out []diffLine) {
	shown := make([]bool, len(lines))
	for i, l := range lines {
		if l.sign != ' ' {
			for k := max(0, i-aroundChange); k <= min(len(lines)-1, i+aroundChange); k++ {
				shown[k] = true
			}
		}
	}
	for i, l := range lines {
		switch {
		case shown[i]:
			out = append(out, l)
		case i == 0 || shown[i-1]:
			out = append(out, diffLine{})
		}
	}
	return out
}
