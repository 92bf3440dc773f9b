// Package doctest answers: does a document say what the code says?
//
// A section of a document that is written by a program stands between two comments.
// A test makes the text anew each time and compares; only with -rewrite, which the
// package of golden scripts defines, does it write.
package doctest

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Keep compares what stands in the section of a file with text, or replaces it.
func Keep(t testing.TB, file, section, text string) {
	t.Helper()
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin := fmt.Sprintf("<!-- %s: written by go generate -->\n", section)
	end := fmt.Sprintf("<!-- end of %s -->\n", section)
	head, rest, begins := strings.Cut(string(old), begin)
	got, tail, ends := strings.Cut(rest, end)
	want := "\n" + text
	switch {
	case !begins || !ends:
		t.Fatalf("%s lacks one of the lines\n%s%s", file, begin, end)
	case got == want:
	case flag.Lookup("rewrite").Value.String() == "true":
		if err := os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		g, w := firstDifference(got, want)
		t.Errorf("%s is not what the code says of %s; go generate ./docs/doctest writes it anew. The first difference:\ngot  %s\nwant %s", file, section, g, w)
	}
}

// firstDifference are the first lines that differ.
func firstDifference(got, want string) (g, w string) {
	gots, wants := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(gots), len(wants)) {
		if gots[i] != wants[i] {
			return gots[i], wants[i]
		}
	}
	n := min(len(gots), len(wants))
	return strings.Join(gots[n:], "\n"), strings.Join(wants[n:], "\n")
}
