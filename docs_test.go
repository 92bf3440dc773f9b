package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is a test as the documents name it: package.Test.
var namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")

// Each line of a table in the threat model names the tests that prove it, and
// these tests exist.
func TestThreatModelIsProved(t *testing.T) {
	text, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if last := strings.TrimSpace(cells[len(cells)-1]); !strings.HasPrefix(line, "|") || last == "proof" || strings.Trim(last, "-") == "" {
			continue
		}
		rows++
		tests := namedTest.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(tests) == 0 {
			t.Errorf("nothing proves: %s", line)
		}
		for _, n := range tests {
			if !hasTest(t, n[1], n[2]) {
				t.Errorf("package %s has no %s, which is to prove: %s", n[1], n[2], line)
			}
		}
	}
	if rows == 0 {
		t.Error("there are no tables")
	}
}

// hasTest reports whether a test file of the folder has the test.
func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		code, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(code), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
