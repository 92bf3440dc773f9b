package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// helpWidth is how wide the help's lines are at most, but for long words.
const helpWidth = 90

// serverHelp is what limpet server --help prints: the flags by what they are for,
// as in etcd's help. It is a template of urfave/cli's without anything to fill in.
func serverHelp(flags []cli.Flag) string {
	var b strings.Builder
	b.WriteString("limpet server: run a member\n\n" +
		"  limpet server [flags]\n\n" +
		"Without flags a member listens on localhost:2379, as etcd does, and keeps its data in\n" +
		"the folder default.limpet. Every flag can be given as LIMPET_NAME or ETCD_NAME in the\n" +
		"environment (--data-dir as LIMPET_DATA_DIR), or as a key of the file that --config-file\n" +
		"names; a flag wins over a variable, LIMPET_ over ETCD_, and a file is asked alone.\n" +
		"A link to this program that is named etcd is limpet server.\n")
	for _, category := range categories {
		fmt.Fprintf(&b, "\n%s:\n", category)
		for _, f := range flags {
			if c, ok := f.(cli.CategorizableFlag); ok && c.GetCategory() == category {
				writeFlagHelp(&b, f)
			}
		}
	}
	return strings.ReplaceAll(b.String(), "{{", "{ {")
}

func writeFlagHelp(b *strings.Builder, f cli.Flag) {
	name := f.Names()[0]
	fmt.Fprintf(b, "  --%s", name)
	if text := defaultText(f); text != "" && text != "false" {
		fmt.Fprintf(b, " '%s'", text)
	}
	usage := f.(cli.DocGenerationFlag).GetUsage()
	line := "\n   "
	for word := range strings.FieldsSeq(usage) {
		if len(line)+1+len(word) > helpWidth {
			b.WriteString(line)
			line = "\n   "
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}
