package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"limpet/docs/doctest"
)

// What docs/reference.md says of commands and flags is what the code says; with
// -rewrite it is written anew.
func TestReferenceOfFlags(t *testing.T) {
	var b strings.Builder
	for _, c := range newApp("", new(bytes.Buffer)).Commands {
		writeCommand(&b, "limpet", c)
	}
	doctest.Keep(t, "../docs/reference.md", "commands", b.String())
}

// writeCommand writes a command, its flags and what is below it.
func writeCommand(b *strings.Builder, above string, c *cli.Command) {
	name := above + " " + c.Name
	fmt.Fprintf(b, "### %s\n\n%s.\n\n", name, upperFirst(c.Usage))
	switch {
	case c.SkipFlagParsing:
		fmt.Fprintf(b, "    %s %s\n\n", name, c.ArgsUsage)
	case len(c.Subcommands) == 0:
		fmt.Fprintf(b, "    %s\n\n", strings.TrimSpace(name+" [flags] "+c.ArgsUsage))
	}
	if name == "limpet config set" {
		b.WriteString("And all flags of `limpet server`.\n\n")
	}
	for _, category := range append([]string{""}, categories...) {
		if category != "" && name == "limpet config set" {
			break
		}
		in := slices.DeleteFunc(slices.Clone(c.Flags), func(f cli.Flag) bool { return categoryOf(f) != category })
		if len(in) == 0 {
			continue
		}
		if category != "" {
			fmt.Fprintf(b, "#### %s\n\n", category)
		}
		b.WriteString("| flag | variables | default | what it does |\n|---|---|---|---|\n")
		for _, f := range in {
			writeFlag(b, f, c.Name == "server")
		}
		b.WriteString("\n")
	}
	for _, sub := range c.Subcommands {
		writeCommand(b, name, sub)
	}
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// plain is a flag as it was made.
func plain(f cli.Flag) cli.Flag {
	if n, ok := f.(namedFlag); ok {
		return n.Flag
	}
	return f
}

func categoryOf(f cli.Flag) string {
	if c, ok := plain(f).(cli.CategorizableFlag); ok {
		return c.GetCategory()
	}
	return ""
}

func writeFlag(b *strings.Builder, f cli.Flag, server bool) {
	f = plain(f)
	doc := f.(cli.DocGenerationFlag)
	variables := doc.GetEnvVars()
	if server && f.Names()[0] != "version" { // takeOrders reads them
		variables = envNames(f.Names()[0])
	}
	var names []string
	for _, n := range f.Names() {
		names = append(names, strings.Repeat("-", min(2, len(n)))+n)
	}
	def := ""
	if r, ok := f.(cli.RequiredFlag); ok && r.IsRequired() {
		def = "must be given"
	} else if _, list := f.(*cli.StringSliceFlag); !list {
		def = code(defaultText(f))
	}
	fmt.Fprintf(b, "| %s | %s | %s | %s |\n", code(names...), code(variables...), cell(def), cell(doc.GetUsage()))
}

// code is each word as code.
func code(words ...string) string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, "`"+w+"`")
		}
	}
	return strings.Join(out, " ")
}

// cell is text as it may stand in a table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(s)
}

// The file says of each flag what its own command says: there are no two flags of
// one name in a command, and none without a help.
func TestFlagsAreExplained(t *testing.T) {
	var look func(path string, c *cli.Command)
	look = func(path string, c *cli.Command) {
		seen := map[string]bool{}
		for _, f := range c.Flags {
			doc := plain(f).(cli.DocGenerationFlag)
			for _, n := range f.Names() {
				if seen[n] {
					t.Errorf("%s has two flags --%s", path, n)
				}
				seen[n] = true
			}
			if doc.GetUsage() == "" {
				t.Errorf("%s --%s has no help", path, f.Names()[0])
			}
		}
		if c.Usage == "" {
			t.Errorf("%s has no help", path)
		}
		for _, sub := range c.Subcommands {
			look(path+" "+sub.Name, sub)
		}
	}
	for _, c := range newApp("", new(bytes.Buffer)).Commands {
		look("limpet "+c.Name, c)
	}
}
