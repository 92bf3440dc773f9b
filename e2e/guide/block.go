package guide

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Block is a fenced block of a document.
type Block struct {
	File     string // path of the document
	Line     int    // of the fence, from 1
	Language string // the first word behind the fence
	Where    string // the second: board1, boards, installed, shown; empty: here
	Text     string // without the fences
}

// Name tells people which block it is.
func (b Block) Name() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

// FirstLine names the block in lists: it stays when lines move.
func (b Block) FirstLine() string {
	first, _, _ := strings.Cut(b.Text, "\n")
	return first
}

// languages are those that a block may have, and places where commands may run.
var (
	languages = []string{"sh", "text", "yaml", "sql"}
	places    = []string{"", "board1", "board2", "board3", "boards", "installed", "shown"}
)

// Blocks are the fenced blocks of a document, in order. One that does not say what it
// is is an error: its commands would escape.
func Blocks(file string) ([]Block, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []Block
	var open *Block
	for i, line := range strings.Split(string(text), "\n") {
		fence, ok := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case ok && open == nil:
			words := append(strings.Fields(fence), "", "")
			open = &Block{File: file, Line: i + 1, Language: words[0], Where: words[1]}
			if !slices.Contains(languages, open.Language) || !slices.Contains(places, open.Where) || words[2] != "" || open.Where != "" && open.Language != "sh" {
				return nil, fmt.Errorf("%s: a block is of %q; want one of %q, and for sh one of %q", open.Name(), fence, languages, places)
			}
		case ok:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.Text += line + "\n"
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block does not end", open.Name())
	}
	return all, nil
}

// Step is one command of a block, and what it should do.
type Step struct {
	Line    int // in the document
	Command string
	Prints  []string // each, … for anything
	Waits   []string // each, at last: the command is repeated until then
	Fails   bool     // it should
}

var heredoc = regexp.MustCompile(`<<-?'?(\w+)'?`)

// Steps are the commands of a block.
func (b Block) Steps() ([]Step, error) {
	var steps []Step
	lines := strings.Split(strings.TrimSuffix(b.Text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line, at := lines[i], b.Line+1+i
		if said, ok := strings.CutPrefix(line, "# "); ok {
			if len(steps) == 0 {
				return nil, fmt.Errorf("%s:%d: a comment before the first command; what is below a command is what it prints", b.File, at)
			}
			last := &steps[len(steps)-1]
			if text, ok := strings.CutPrefix(said, "by and by: "); ok {
				last.Waits = append(last.Waits, text)
			} else if text, ok := strings.CutPrefix(said, "by and by fails: "); ok {
				last.Fails, last.Waits = true, append(last.Waits, text)
			} else if text, ok := strings.CutPrefix(said, "fails: "); ok {
				last.Fails, last.Prints = true, append(last.Prints, text)
			} else {
				last.Prints = append(last.Prints, said)
			}
			continue
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		command := line
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = lines[i]
			command += "\n" + line
		}
		if end := heredoc.FindStringSubmatch(command); end != nil {
			for i+1 < len(lines) {
				i++
				command += "\n" + lines[i]
				if lines[i] == end[1] {
					break
				}
			}
		}
		steps = append(steps, Step{Line: at, Command: command})
	}
	return steps, nil
}

// printed reports whether out has the text in it, … standing for anything in a line.
func printed(out, text string) bool {
	var parts []string
	for _, p := range strings.Split(text, "…") {
		var words []string // blanks are those of tables
		for _, w := range strings.Fields(p) {
			words = append(words, regexp.QuoteMeta(w))
		}
		parts = append(parts, strings.Join(words, `\s+`))
	}
	return regexp.MustCompile(strings.Join(parts, ".*")).MatchString(out)
}
