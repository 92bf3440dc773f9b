package cli

import "strings"

// maxTable bounds the memory of a comparison, in pairs of lines of 4 bytes: of
// texts that differ in more, all lines are shown as replaced.
const maxTable = 1 << 20

// aroundChange is how many lines that are the same are shown beside a change.
const aroundChange = 2

// diffLine is one line of a comparison: ' ' in both texts, '-' in the first, '+' in
// the second.
type diffLine struct {
	sign byte
	text string
}

// diffLines compares two texts line by line.
func diffLines(before, after string) []diffLine {
	a, b := splitLines(before), splitLines(after)
	var head, tail []diffLine
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head = append(head, diffLine{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append(tail, diffLine{' ', a[len(a)-1]})
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	out := append(head, diffMiddle(a, b)...)
	for i := len(tail) - 1; i >= 0; i-- {
		out = append(out, tail[i])
	}
	return out
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// diffMiddle keeps a longest common subsequence, by the usual table: common[i][j]
// is its length for a[i:] and b[j:].
func diffMiddle(a, b []string) (out []diffLine) {
	i, j := 0, 0
	if len(a) > 0 && len(b) > 0 && (len(a)+1) <= maxTable/(len(b)+1) {
		width := len(b) + 1
		common := make([]int32, (len(a)+1)*width)
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if a[i] == b[j] {
					common[i*width+j] = common[(i+1)*width+j+1] + 1
				} else {
					common[i*width+j] = max(common[(i+1)*width+j], common[i*width+j+1])
				}
			}
		}
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				out = append(out, diffLine{' ', a[i]})
				i, j = i+1, j+1
			case common[(i+1)*width+j] >= common[i*width+j+1]:
				out = append(out, diffLine{'-', a[i]})
				i++
			default:
				out = append(out, diffLine{'+', b[j]})
				j++
			}
		}
	}
	for ; i < len(a); i++ {
		out = append(out, diffLine{'-', a[i]})
	}
	for ; j < len(b); j++ {
		out = append(out, diffLine{'+', b[j]})
	}
	return out
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
