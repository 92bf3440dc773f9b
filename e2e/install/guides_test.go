//go:build linux

package install

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"limpet/e2e/guide"
)

// docs are the guides, seen from the folder in which tests of this package run.
const docs = repository + "/docs"

// installedBlocks are those of a guide that are for machines on which limpet is installed.
func installedBlocks(t *testing.T, doc string) []guide.Block {
	t.Helper()
	all, err := guide.Blocks(filepath.Join(docs, doc))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(b guide.Block) bool { return b.Where != "installed" })
}

// written is the text of each.
func written(t *testing.T, doc string) (blocks []string) {
	t.Helper()
	for _, b := range installedBlocks(t, doc) {
		blocks = append(blocks, strings.TrimSpace(b.Text))
	}
	return blocks
}

// follow does what a guide says in the folder with install.sh, the releases being at the mirror.
func (m *Machine) follow(from *Mirror, block string, env ...string) string {
	m.t.Helper()
	here := strings.ReplaceAll(block, "https://example.org", from.URL)
	return m.Start("a guide", "cd /root/here\n"+here, append([]string{"INSTALL_LIMPET_MIRROR=" + from.URL}, env...)...).Succeeds()
}

// TestGuides: what the guides say of install.sh, word for word: one machine from the network and one
// from files, both uninstalled; then three, of which one leaves, and an upgrade.
func TestGuides(t *testing.T) {
	t.Parallel()
	begin, operate := written(t, "getting-started.md"), written(t, "operations.md")
	for doc, want := range map[string]int{"getting-started.md": 4, "operations.md": 1} {
		if got := written(t, doc); len(got) != want {
			t.Fatalf("%s has %d blocks for installed machines, and this test knows %d: %q", doc, len(got), want, got)
		}
	}
	others, err := filepath.Glob(docs + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range others {
		// TestK3sMoves has those of k3s.md.
		if doc := filepath.Base(path); !slices.Contains([]string{"getting-started.md", "operations.md", "k3s.md"}, doc) && len(written(t, doc)) > 0 {
			t.Errorf("%s has blocks for installed machines, which no test runs: %q", doc, written(t, doc))
		}
	}
	network, files, three, leave, upgrade := begin[0], begin[1], begin[2], begin[3], operate[0]

	n, all := machines(t, 3)
	from := mirror(t, n)
	for _, m := range all {
		m.beside()
	}
	for m, block := range map[*Machine]string{all[0]: network, all[1]: files} {
		m.follow(from, block)
		m.runs("limpet", older)
		m.Must("etcdctl put greeting hello")
		m.follow(from, leave)
		if m.Exists("/usr/local/bin/limpet") || m.Exists("/var/lib/limpet") {
			t.Errorf("on %s the program or its data are still there after %s", m.Name(), leave)
		}
	}

	var orders []*Order
	for _, m := range slices.Backward(all) {
		m.Write("/root/here/token", token+"\n", 0o600)
		orders = append(orders, m.Start("a guide", "cd /root/here\n"+three))
	}
	for _, o := range orders {
		o.Succeeds()
	}
	for _, m := range all {
		m.hasMembers(3)
		m.runs("limpet", older)
	}
	from.Offer(newer)
	all[0].Must("etcdctl put before upgrade")
	for _, m := range all {
		m.follow(from, upgrade)
		m.runs("limpet", newer)
		m.has("before", "upgrade")
	}
	all[2].follow(from, leave)
	all[0].hasMembers(2)
}
