//go:build linux

package install

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"limpet/e2e/guide"
)

// TestOperations does what docs/operations.md says on three machines where install.sh has installed
// limpet, as root and, through sudo, as the service's user.
func TestOperations(t *testing.T) {
	t.Parallel()
	const doc = docs + "/operations.md"
	blocks, err := guide.Blocks(doc)
	if err != nil {
		t.Fatal(err)
	}
	n, all := machines(t, 3)
	from := mirror(t, n)
	var names strings.Builder
	for i, m := range all {
		fmt.Fprintf(&names, "%s board%d\n", m.IP(), i+1)
	}
	boards := map[string]*Machine{}
	var orders []*Order
	for i, m := range all {
		name := fmt.Sprint("board", i+1)
		boards[name] = m
		m.Must(fmt.Sprintf("hostname %s && echo %[1]s >/etc/hostname && echo '%s' >>/etc/hosts", name, strings.TrimSpace(names.String())))
		orders = append(orders, m.Install(from, "--bootstrap-expect 3", tokenOption))
	}
	for _, o := range orders {
		o.Succeeds()
	}
	first := boards["board1"]
	first.hasMembers(3)
	first.Must("etcdctl put before 'the disaster'")
	first.do("before the guide", guide.Step{Command: "limpet status", Waits: []string{"board1 … ok", "board2 … ok", "board3 … ok"}})

	for _, b := range blocks {
		if b.Language != "sh" || b.Where == "installed" { // TestGuides has these
			continue
		}
		steps, err := b.Steps()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			for i, m := range all {
				if b.Where == "boards" || b.Where == fmt.Sprint("board", i+1) {
					m.do(filepath.Base(b.File), s)
				}
			}
		}
	}
}

// do runs a step of a guide, again and again if it says so, until it does what it should.
func (m *Machine) do(where string, s guide.Step) {
	m.t.Helper()
	m.Eventually(fmt.Sprintf("%s:%d, on %s", where, s.Line, m.Name()), func() error {
		got := m.Run(s.Command)
		wrong := s.Judge(got.Stdout+got.Stderr, got.Code)
		if wrong == "" {
			return nil
		}
		err := errors.New(strings.TrimSpace(fmt.Sprintf("$ %s\n%s%s%s", s.Command, got.Stdout, got.Stderr, wrong)))
		if len(s.Waits) == 0 {
			m.t.Fatalf("%s:%d, on %s:\n%v", where, s.Line, m.Name(), err)
		}
		return err
	})
}
