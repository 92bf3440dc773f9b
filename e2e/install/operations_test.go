//go:build linux

package install

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"limpet/e2e/guide"
)

// TestOperations and TestBackup do what guides say on three machines where install.sh has installed
// limpet, as root and, through sudo, as the service's user.
func TestOperations(t *testing.T) { t.Parallel(); asWritten(t, "operations.md") }
func TestBackup(t *testing.T)     { t.Parallel(); asWritten(t, "backup.md") }

// copied is a command that brings a file from the first board to the others.
var copied = regexp.MustCompile(`^scp (\S+) board2:`)

func asWritten(t *testing.T, doc string) {
	t.Helper()
	blocks, err := guide.Blocks(filepath.Join(docs, doc))
	if err != nil {
		t.Fatal(err)
	}
	all := threeBoards(t)
	for _, b := range blocks {
		if b.Language != "sh" || b.Where == "installed" { // TestGuides has these
			continue
		}
		if b.Where == "shown" {
			if file := copied.FindStringSubmatch(b.FirstLine()); file != nil {
				text := all[0].Read(file[1])
				all[1].Write(file[1], text, 0o600)
				all[2].Write(file[1], text, 0o600)
			}
			continue
		}
		steps, err := b.Steps()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			for i, m := range all {
				if b.Where == "boards" || b.Where == fmt.Sprint("board", i+1) {
					m.do(doc, s)
				}
			}
		}
	}
}

// threeBoards are installed, and one cluster with a key.
func threeBoards(t *testing.T) []*Machine {
	t.Helper()
	n, all := machines(t, 3)
	from := mirror(t, n)
	var names strings.Builder
	for i, m := range all {
		fmt.Fprintf(&names, "%s board%d\n", m.IP(), i+1)
	}
	var orders []*Order
	for i, m := range all {
		m.Must(fmt.Sprintf("hostname board%d && echo board%[1]d >/etc/hostname && echo '%s' >>/etc/hosts", i+1, strings.TrimSpace(names.String())))
		orders = append(orders, m.Install(from, "--bootstrap-expect 3", tokenOption))
	}
	for _, o := range orders {
		o.Succeeds()
	}
	all[0].hasMembers(3)
	all[0].Must("etcdctl put before 'the disaster'")
	all[0].do("before the guide", guide.Step{Command: "limpet status", Waits: []string{"board1 … ok", "board2 … ok", "board3 … ok"}})
	return all
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
