package cli

import (
	"cmp"
	"regexp"
	"strconv"
)

// versionForm is a version as tags and git describe give it: numbers, what leads up
// to them, commits since then, and whether the tree had changes.
var versionForm = regexp.MustCompile(`^v?(\d+)\.(\d+)(?:\.(\d+))?(?:-(.+?))??(?:-(\d+)-g[0-9a-f]{7,})?(?:-dirty)?(?:\+.*)?$`)

// newerVersion reports whether version a is newer than b. Numbers count first; of the
// same numbers, what leads up to a release (1.2.3-rc1, 0.0.0-TIME-HASH) is older than
// it, and commits behind it (1.2.3-4-gHASH) are newer. What is no version is not
// newer than anything, nor anything than it.
func newerVersion(a, b string) bool {
	x, y := versionForm.FindStringSubmatch(a), versionForm.FindStringSubmatch(b)
	if x == nil || y == nil {
		return false
	}
	for i := 1; i <= 3; i++ {
		if order := compareNumbers(x[i], y[i]); order != 0 {
			return order > 0
		}
	}
	if x[4] != y[4] {
		if x[4] == "" || y[4] == "" {
			return x[4] == ""
		}
		return compareNatural(x[4], y[4]) > 0
	}
	return compareNumbers(x[5], y[5]) > 0
}

// compareNumbers compares digits as numbers; none is 0.
func compareNumbers(a, b string) int {
	x, _ := strconv.ParseUint(a, 10, 64) // digits by the form; of absurdly many, the largest number
	y, _ := strconv.ParseUint(b, 10, 64)
	return cmp.Compare(x, y)
}

var runs = regexp.MustCompile(`\d+|\D+`)

// compareNatural compares text, and the numbers in it as numbers: rc9 is before rc10.
func compareNatural(a, b string) int {
	x, y := runs.FindAllString(a, -1), runs.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		order := cmp.Compare(x[i], y[i])
		if isDigit(x[i][0]) && isDigit(y[i][0]) {
			order = compareNumbers(x[i], y[i])
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(len(x), len(y))
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
