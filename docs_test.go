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

// aLink leads to a file, as seen from the document.
var aLink = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)

// Links between documents lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, doc := range append(docs, "README.md") {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range aLink.FindAllStringSubmatch(string(text), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), found[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc, found[1], err)
			}
		}
	}
	if links < 10 {
		t.Errorf("%d links were found, want those of all documents", links)
	}
}

// What docs/operations.md says of the log is what the code writes there.
func TestLogLinesAreWritten(t *testing.T) {
	text, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| line | do |\n")
	var code strings.Builder
	for _, pattern := range []string{"*/*.go", "*/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			source, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(source)
		}
	}
	lines := 0
	for _, found := range regexp.MustCompile("(?m)^\\| `([^`]+?)(?: …)?` \\|").FindAllStringSubmatch(table, -1) {
		lines++
		if !strings.Contains(code.String(), found[1]) {
			t.Errorf("docs/operations.md explains the log line %q, which no code writes", found[1])
		}
	}
	if lines < 5 {
		t.Errorf("%d log lines are explained, want some", lines)
	}
}

// Figures that guides quote from bench/RESULTS.md are there, in the row that is meant.
func TestFiguresAreMeasured(t *testing.T) {
	results, err := os.ReadFile("bench/RESULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ doc, row, limpet, etcd string }{
		{"docs/operations.md", "↓ bytes reaching the device, idle k3s (KiB/s)", "60.1", "262"},
		{"docs/operations.md", "↓ written (write_bytes), idle k3s, 3 members (KiB/s)", "170", "623"},
		{"docs/k3s.md", "↓ bytes reaching the device, idle k3s (KiB/s)", "60.1", "262"},
		{"docs/k3s.md", "↓ device flushes, idle k3s (1/s)", "8.50", "23.9"},
		{"docs/k3s.md", "↓ RSS at the end, idle k3s (MiB)", "29.1", "34.1"},
	} {
		text, err := os.ReadFile(c.doc)
		if err != nil {
			t.Fatal(err)
		}
		if row := "| " + c.row + " | " + c.limpet + " | " + c.etcd + " |"; !strings.Contains(string(results), row) {
			t.Errorf("%s quotes a figure, and bench/RESULTS.md has no row %s", c.doc, row)
		}
		for _, figure := range []string{c.limpet, c.etcd} {
			if !strings.Contains(string(text), figure) {
				t.Errorf("%s does not quote %s, of %s", c.doc, figure, c.row)
			}
		}
	}
}
