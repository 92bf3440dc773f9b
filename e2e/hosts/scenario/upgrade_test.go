//go:build linux

package scenario

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"limpet/e2e/proc"
)

// upgrades are stories of two versions of limpet side by side.
var upgrades = []tale{
	{"Upgrade", board, 3, upgrade},
	{"UpgradeStatic", static, 3, upgrade},
	{"OlderAgain", board, 3, olderAgain},
	{"OlderAgainStatic", static, 3, olderAgain},
	{"OlderJoins", board, 4, olderJoins},
	{"OlderJoinsStatic", static, 4, olderJoins},
}

// repository is where limpet is built, seen from the folder in which tests of this package run.
const repository = "../../.."

// olderLimpet is a limpet that reads and writes format 1 of log entries only, and says so to others:
// LIMPET_OLDER_BIN, or one that is built for the test.
func olderLimpet(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("LIMPET_OLDER_BIN"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "limpet-older")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X limpet/raftfsm.formatLimit=1", "-o", path, ".")
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return path
}

// upgrade replaces three older limpets under load, one by one, by the present one, and takes one of
// them back on the way. The log stays as the older read it until there is none of them any more.
func upgrade(t *testing.T, c *Cluster) {
	older, present := olderLimpet(t), proc.Binary(t, proc.Limpet)
	for _, m := range c.spares {
		m.Process.Use(older)
	}
	b := c.foundAny()
	s := begin(t, c)
	ids := c.voters(b...)
	s.turnsInto(b[0], present)
	s.turnsInto(b[1], present)
	s.stillOld(ids)
	s.turnsInto(b[0], older)
	s.stillOld(ids)
	s.turnsInto(b[0], present)
	s.stillOld(ids)
	s.turnsInto(b[2], present)
	s.switched(ids)
	s.turnsInto(b[0], present) // a restart with a log of both formats
	s.end()
}

// turnsInto has m go on as another version of the program, with the same data.
func (s *story) turnsInto(m *Member, path string) {
	s.t.Helper()
	m.Stop()
	s.goesOn()
	m.Process.Use(path)
	m.Start()
	m.Serves()
	s.goesOn()
}

// stillOld checks that nobody's log holds an entry of a format other than 1.
func (s *story) stillOld(ids []uint64) {
	s.t.Helper()
	for _, m := range s.members {
		if got := m.formats(ids); got[1] == 0 || len(got) > 1 {
			s.t.Errorf("the log of %s holds entries by format %v, want format 1 only while an older limpet is a member", m.Name, got)
		}
	}
}

// newestFormat is that of the entries which a limpet of today writes.
const newestFormat = 8

// switched waits until everybody's log holds entries of the newest format.
func (s *story) switched(ids []uint64) {
	s.t.Helper()
	var got map[byte]int
	s.Eventually("the newest format in all logs", func(context.Context) error {
		for _, m := range s.members {
			if got = m.formats(ids); got[newestFormat] == 0 {
				return fmt.Errorf("the log of %s holds entries by format %v", m.Name, got)
			}
		}
		return nil
	})
	s.t.Logf("a log holds entries by format %v", got)
}

// formats counts the entries of m's log by format, which is the byte before the ID of the member that
// proposed it (package raftfsm). An ID is random, and is written like this nowhere else in a log.
func (m *Member) formats(proposers []uint64) map[byte]int {
	m.cluster.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.DataDir, "raft", "*.wal"))
	if err != nil || len(files) == 0 {
		m.cluster.t.Fatalf("the log of %s: files %v, %v", m.Name, files, err)
	}
	count := map[byte]int{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it was trimmed away
		}
		for _, id := range proposers {
			for before, rest, found := bytes.Cut(data, binary.BigEndian.AppendUint64(nil, id)); found; before, rest, found = bytes.Cut(rest, binary.BigEndian.AppendUint64(nil, id)) {
				count[before[len(before)-1]]++
			}
		}
	}
	return count
}

const tooOld = "upgrade limpet"

// olderAgain starts an older limpet on the data of a present one, which holds what it cannot read: it
// refuses and leaves the data as it is.
func olderAgain(t *testing.T, c *Cluster) {
	older := olderLimpet(t)
	b := c.foundAny()
	s := begin(t, c)
	ids := c.voters(b...)
	s.switched(ids)
	leader := c.Leader(b...)
	for _, m := range []*Member{leader, c.Others(leader)[0]} {
		m.Stop()
		before := m.log()
		m.Process.Use(older)
		m.Start()
		m.endsWith(1, tooOld)
		if after := m.log(); !maps.Equal(before, after) {
			t.Errorf("an older limpet has changed the log of %s", m.Name)
		}
		s.goesOn()
		m.Process.Use(proc.Binary(t, proc.Limpet))
		m.Start()
		m.Serves()
	}
	s.end()
}

// log is the raft log of a member that does not run: what is in its files, by their names.
func (m *Member) log() map[string]string {
	m.cluster.t.Helper()
	all := map[string]string{}
	names, err := filepath.Glob(filepath.Join(m.DataDir, "raft", "*.wal"))
	if err != nil || len(names) == 0 {
		m.cluster.t.Fatalf("the log of %s: files %v, %v", m.Name, names, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			m.cluster.t.Fatal(err)
		}
		all[name] = string(data)
	}
	return all
}

// olderJoins has an empty older limpet ask to be taken into a cluster whose log it cannot read.
func olderJoins(t *testing.T, c *Cluster) {
	b := c.foundAny()
	before := c.voters(b...)
	s := begin(t, c)
	s.switched(before)
	late := c.spares[0]
	late.Process.Use(olderLimpet(t))
	if c.Program.FindsMembers {
		late.comes(at(b[0]))
	} else {
		late.Process.Launch(c.Program.Flags(late, append(slices.Clone(b), late), false)...)
	}
	late.tells("is in no cluster yet", fmt.Sprint("the log of this cluster has format ", newestFormat), tooOld)
	late.keepsTelling("is in no cluster yet", tooOld)
	unharmed(t, s, before)
}
