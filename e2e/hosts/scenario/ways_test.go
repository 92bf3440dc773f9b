//go:build linux

package scenario

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"limpet/e2e/proc"
)

// flashed is limpet with a configuration file, and no name but the host's.
var flashed = Program{
	Kind:      proc.Limpet,
	Flags:     func(m *Member, _ []*Member, _ bool) []string { return append([]string{"server"}, m.Way...) },
	TookImage: tookImage, PromotesLearners: true, FindsMembers: true,
}

// ways are how boards with a token come together.
var ways = []tale{
	{"JoinByHost", board, 3, joinByHost},
	{"TokenFile", board, 3, tokenFile},
	{"Discover", board, 3, discover},
	{"ExpectFive", board, 5, expectAllFive},
	{"LaterBoards", board, 5, laterBoards},
	{"SameConfiguration", flashed, 3, sameConfiguration},
	{"SameNameJoining", flashed, 3, sameNameJoining},
}

// TestWays: each way into a cluster ends with voters that bear load, and lose their leader.
func TestWays(t *testing.T) {
	tellAll(t, ways, "Discover", "SameConfiguration")
	tellAll(t, staticWays, "PrintedCommand")
	told := orders
	if !Long() {
		told = orders[len(orders)-1:]
	}
	for _, order := range told {
		t.Run(fmt.Sprint("ExpectThree/", order), func(t *testing.T) {
			expectInOrder(t, gather(t, board, Layout{}, founders), order)
		})
		t.Run(fmt.Sprint("StaticNew/", order), func(t *testing.T) {
			staticInOrder(t, gather(t, static, Layout{}, founders), order)
		})
	}
}

// orders are all in which three boards can be switched on.
var orders = [][founders]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

// holds checks that the members are a cluster: all vote, load is borne, and the leader can die.
func holds(t *testing.T, c *Cluster) {
	t.Helper()
	c.voters(c.members...)
	s := begin(t, c)
	old := c.Leader(c.members...)
	old.Process.Kill()
	c.Leader(c.Others(old)...)
	s.goesOn()
	old.Start()
	old.Serves()
	c.voters(c.members...)
	s.goesOn()
	s.end()
}

// joinByHost begins with one board, and the others are told its address.
func joinByHost(t *testing.T, c *Cluster) {
	b := c.enlist(3)
	b[0].comes()
	b[0].put("before", "the others")
	b[1].comes(at(b[0]))
	b[2].comes(at(b[0]))
	c.voters(b...)
	for _, m := range b {
		m.has("before", "the others", false)
	}
	holds(t, c)
}

// tokenFile is the same with the token in a file on each board.
func tokenFile(t *testing.T, c *Cluster) {
	b := c.enlist(3)
	flag := "--token-file=" + tokenIn(t)
	for i, m := range b {
		m.Way = []string{flag}
		if i > 0 {
			m.Way = append(m.Way, at(b[0]))
		}
		m.Start()
	}
	holds(t, c)
}

func tokenIn(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// discover gives the others nothing but the token, of which one has it in a file.
func discover(t *testing.T, c *Cluster) {
	b := c.enlist(3)
	b[0].comes()
	b[1].comes("--discover")
	b[2].Way = []string{"--discover", "--token-file=" + tokenIn(t)}
	b[2].Start()
	holds(t, c)
}

// expectInOrder switches three boards on that expect each other, each once those before it have said
// what they wait for.
func expectInOrder(t *testing.T, c *Cluster, order [founders]int) {
	b := c.enlist(founders)
	for i, turn := range order {
		b[turn].comes(expectThree)
		if i+1 == founders {
			break
		}
		for _, before := range order[:i+1] {
			b[before].tells("is in no cluster yet", fmt.Sprintf("waiting for 3 members that expect each other; %d are here", i+1))
		}
	}
	holds(t, c)
}

// expectAllFive has two of five boards die at once.
func expectAllFive(t *testing.T, c *Cluster) {
	b := c.foundMany(5)
	s := begin(t, c)
	s.needs(b[4])
	s.end()
}

// laterBoards adds a fourth and a fifth board under load. With five, two may die.
func laterBoards(t *testing.T, c *Cluster) {
	b := c.foundAny()
	s := begin(t, c)
	for len(c.spares) > 0 {
		later := c.spares[0]
		c.members, c.spares = append(c.members, later), c.spares[1:]
		later.comes(at(b[1]))
		c.voters(c.members...)
		s.watch(later, true)
		s.goesOn()
	}
	s.needs(c.members[3])
	s.needs(c.members[4])
	s.end()
}

// sameConfiguration starts boards that were flashed alike: one configuration file, one host name.
func sameConfiguration(t *testing.T, c *Cluster) {
	b := c.enlist(3)
	for _, m := range b {
		// Hosts here share the file system: the folder alone cannot be the same.
		m.flashed("bootstrap-expect: 3", "data-dir: "+m.DataDir)
		m.Start()
	}
	staysNamed(t, c)
}

// sameNameJoining has two such boards join a third one at the same time.
func sameNameJoining(t *testing.T, c *Cluster) {
	b := c.enlist(3)
	b[0].flashed("data-dir: " + b[0].DataDir)
	b[0].Start()
	b[0].put("before", "the others")
	for _, m := range b[1:] {
		m.flashed("join: "+b[0].Host.IP().String(), "data-dir: "+m.DataDir)
		m.Start()
	}
	staysNamed(t, c)
}

// flashed writes m's configuration file, which is all that the next start is given.
func (m *Member) flashed(lines ...string) {
	m.cluster.t.Helper()
	file := filepath.Join(m.cluster.t.TempDir(), "limpet.yaml")
	lines = append(lines, "token: "+token, "listen-client-urls: http://0.0.0.0:2379", "")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		m.cluster.t.Fatal(err)
	}
	m.Way = []string{"--config-file=" + file}
}

// staysNamed checks that the members have names of their own, which outlive a restart.
func staysNamed(t *testing.T, c *Cluster) {
	t.Helper()
	c.voters(c.members...)
	before := c.memberNames()
	for _, m := range c.members {
		m.Stop()
	}
	for _, m := range c.members {
		m.Start()
	}
	c.voters(c.members...)
	if after := c.memberNames(); !maps.Equal(before, after) {
		t.Errorf("members are called %v after a restart, want %v as before", after, before)
	}
}

// memberNames are the members' names by ID, as the first lists them.
func (c *Cluster) memberNames() map[uint64]string {
	c.t.Helper()
	all, err := c.members[0].list()
	if err != nil {
		c.t.Fatal(err)
	}
	called := map[uint64]string{}
	for _, m := range all {
		called[m.ID] = m.Name
	}
	return called
}
