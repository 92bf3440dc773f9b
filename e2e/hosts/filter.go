//go:build linux

package hosts

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// direction is a way that frames take, by the names of ports; hubPort stands for the hub itself.
type direction struct{ from, to string }

const hubPort = "hub"

// filter is the set of directions that are cut. It has one owner.
type filter struct{ cut map[direction]bool }

func (f *filter) drop(from, to string) { f.cut[direction{from, to}] = true }

// mend removes every cut that concerns port.
func (f *filter) mend(port string) {
	maps.DeleteFunc(f.cut, func(d direction, _ bool) bool { return d.from == port || d.to == port })
}

// script is the whole ruleset for nft, which replaces the old one in one step. The bridge's own
// traffic has hooks of its own: what a port sends to the hub passes input, what the hub sends
// passes output. Broadcasts pass forward once for each port they leave by.
func (f *filter) script() string {
	rules := map[string][]string{}
	for _, d := range slices.SortedFunc(maps.Keys(f.cut), byNames) {
		what := "drop"
		if !f.cut[direction{d.to, d.from}] {
			// Who cannot ask for an address cannot send either: then no direction would be left.
			what = "ether type != arp drop"
		}
		switch {
		case d.to == hubPort:
			rules["input"] = append(rules["input"], fmt.Sprintf("iifname %q %s", d.from, what))
		case d.from == hubPort:
			rules["output"] = append(rules["output"], fmt.Sprintf("oifname %q %s", d.to, what))
		default:
			rules["forward"] = append(rules["forward"], fmt.Sprintf("iifname %q oifname %q %s", d.from, d.to, what))
		}
	}
	var b strings.Builder
	// The first line makes the second one valid when there is no table yet.
	b.WriteString("table bridge cuts\ndelete table bridge cuts\ntable bridge cuts {\n")
	for _, chain := range []string{"forward", "input", "output"} {
		fmt.Fprintf(&b, "chain %s {\ntype filter hook %s priority filter; policy accept;\n", chain, chain)
		for _, rule := range rules[chain] {
			b.WriteString(rule + "\n")
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func byNames(a, b direction) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) }
