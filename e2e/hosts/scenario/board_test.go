//go:build linux

package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/proc"
)

// tale is a story of limpet alone: etcd has no such ways in, and no such words. It begins with hosts
// on which nothing runs yet, all of them spares.
type tale struct {
	name    string
	program Program
	boards  int
	tell    func(*testing.T, *Cluster)
}

// tellAll tells stories, each on hosts of its own: all of them in a Long run, else those named.
func tellAll(t *testing.T, tales []tale, short ...string) {
	t.Helper()
	for _, s := range tales {
		if !Long() && !slices.Contains(short, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) { s.tell(t, gather(t, s.program, Layout{}, s.boards)) })
	}
}

// board is limpet as the install script would start it: the token in the environment, and a way in.
var board = Program{
	Kind: proc.Limpet,
	Flags: func(m *Member, _ []*Member, _ bool) []string {
		return append([]string{
			"server", "--name=" + m.Name, "--data-dir=" + m.DataDir,
			"--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=" + m.ClientURL(),
		}, m.Way...)
	},
	TookImage: tookImage, PromotesLearners: true, FindsMembers: true,
}

const withToken = "LIMPET_TOKEN=" + token

// comes starts m with the token in its environment and the flags of a way in.
func (m *Member) comes(way ...string) {
	m.cluster.t.Helper()
	m.Process.Env, m.Way = []string{withToken}, way
	m.Start()
}

// at is the flag to join other with: its address, and no port.
func at(other *Member) string { return "--join=" + other.Host.IP().String() }

// enlist makes the first spares the members that stories with witnesses speak of.
func (c *Cluster) enlist(count int) []*Member {
	c.members, c.spares = c.spares[:count:count], c.spares[count:]
	return c.members
}

// foundAny starts the first three members of either program: they name each other, or expect so many.
func (c *Cluster) foundAny() []*Member {
	c.t.Helper()
	return c.foundMany(founders)
}

func (c *Cluster) foundMany(count int) []*Member {
	c.t.Helper()
	b := c.enlist(count)
	for _, m := range b {
		m.founding = true
		if c.Program.FindsMembers {
			m.Process.Env, m.Way = []string{withToken}, []string{fmt.Sprintf("--bootstrap-expect=%d", count)}
		}
		m.Start()
	}
	c.voters(b...)
	return b
}

// command runs a limpet command on m's host, as its user would.
func (m *Member) command(args ...string) proc.Result {
	m.cluster.t.Helper()
	return m.Host.Exec(proc.Binary(m.cluster.t, proc.Limpet), args...)
}

// statusPatience is short: a member that waits does not answer gRPC, and status still tells why.
const statusPatience = "--timeout=1s"

// status is what limpet status says on m's host.
func (m *Member) status() string {
	m.cluster.t.Helper()
	return m.command("status", statusPatience).Stdout
}

// tells waits until limpet status on m's host says all of want.
func (m *Member) tells(want ...string) {
	m.cluster.t.Helper()
	m.cluster.Eventually(fmt.Sprintf("limpet status on %s says %q", m.Name, want), func(context.Context) error {
		m.mustRun()
		return missing(m.status(), want)
	})
}

// someLooks at a state show that it stays. Each takes a command's time, and a second where a member
// does not answer.
const someLooks = 5

// keepsTelling checks that limpet status goes on saying all of want.
func (m *Member) keepsTelling(want ...string) {
	m.cluster.t.Helper()
	for range someLooks {
		if err := missing(m.status(), want); err != nil {
			m.cluster.t.Errorf("limpet status on %s: %v", m.Name, err)
			return
		}
	}
}

func missing(text string, want []string) error {
	for _, w := range want {
		if !strings.Contains(text, w) {
			return fmt.Errorf("no %q in\n%s", w, text)
		}
	}
	return nil
}

// logs waits until the running process has logged want.
func (m *Member) logs(want string) {
	m.cluster.t.Helper()
	ctx, cancel := context.WithTimeoutCause(m.cluster.t.Context(), patience, errors.New("deadline"))
	defer cancel()
	if err := m.Process.Log.Wait(ctx, want); err != nil {
		m.cluster.t.Fatalf("%s: %v", m.Name, err)
	}
}

// endsWith waits until the program has ended by itself with an exit code and a sentence.
func (m *Member) endsWith(code int, sentence string) {
	m.cluster.t.Helper()
	exit := m.Process.WaitExit(time.Now(), patience)
	if text := m.Process.Log.Text(); exit.Code != code || !strings.Contains(text, sentence) {
		m.cluster.t.Errorf("%s ended with %+v, want exit code %d and %q in its log", m.Name, exit, code, sentence)
	}
}

// put writes a key through etcdctl on m's host.
func (m *Member) put(key, value string) {
	m.cluster.t.Helper()
	m.cluster.Eventually("put at "+m.Name, func(context.Context) error {
		if r := m.command("etcdctl", "put", key, value); r.Code != 0 {
			return fmt.Errorf("etcdctl put: %s", r.Stderr)
		}
		return nil
	})
}

// has waits until etcdctl on m's host reads value; without the others' consent if alone is set.
func (m *Member) has(key, value string, alone bool) {
	m.cluster.t.Helper()
	consistency := "--consistency=l"
	if alone {
		consistency = "--consistency=s"
	}
	m.cluster.Eventually(fmt.Sprintf("%s at %s is %q", key, m.Name, value), func(context.Context) error {
		r := m.command("etcdctl", "get", consistency, "--print-value-only", key)
		if got := strings.TrimSpace(r.Stdout); r.Code != 0 || got != value {
			return fmt.Errorf("etcdctl get: %q, want %q: %s", got, value, r.Stderr)
		}
		return nil
	})
}

// list is limpet member list on m's host.
func (m *Member) list() ([]*pb.Member, error) {
	m.cluster.t.Helper()
	r := m.command("member", "list", "--timeout=2s", "--output=json")
	if r.Code != 0 {
		return nil, errors.New(r.Stderr)
	}
	var all []*pb.Member
	return all, json.Unmarshal([]byte(r.Stdout), &all)
}

// voters waits until each of the members lists them all, as voters with names of their own, and
// nobody else. It returns their IDs in the order of members.
func (c *Cluster) voters(members ...*Member) []uint64 {
	c.t.Helper()
	var ids []uint64
	c.Eventually("voters "+names(members), func(ctx context.Context) error {
		ids = nil
		for _, m := range members {
			m.mustRun()
			status, err := m.Status(ctx)
			if err != nil {
				return fmt.Errorf("status of %s: %w", m.Name, err)
			}
			ids = append(ids, status.Header.MemberId)
		}
		for _, m := range members {
			if err := m.listsVoters(ids); err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
		}
		return nil
	})
	return ids
}

func (m *Member) listsVoters(ids []uint64) error {
	all, err := m.list()
	if err != nil {
		return err
	}
	if len(all) != len(ids) {
		return fmt.Errorf("%d members, want %d: %v", len(all), len(ids), all)
	}
	left, called := map[uint64]bool{}, map[string]bool{}
	for _, id := range ids {
		left[id] = true
	}
	for _, o := range all {
		if o.IsLearner || o.Name == "" || called[o.Name] || !left[o.ID] {
			return fmt.Errorf("member %x, %q, of %v: want a voter with a name of its own, one of %x", o.ID, o.Name, all, ids)
		}
		called[o.Name] = true
		delete(left, o.ID)
	}
	return nil
}

// clusterID is the cluster that m belongs to, in hex.
func (m *Member) clusterID() string {
	m.cluster.t.Helper()
	var id uint64
	m.cluster.Eventually("cluster of "+m.Name, func(ctx context.Context) error {
		status, err := m.Status(ctx)
		id = status.GetHeader().GetClusterId()
		return err
	})
	return fmt.Sprintf("%x", id)
}

// wipe removes the data directory of a member that does not run, as a new disk does.
func (m *Member) wipe() {
	m.cluster.t.Helper()
	if err := os.RemoveAll(m.DataDir); err != nil {
		m.cluster.t.Fatal(err)
	}
}

// copyTo copies the data directory, as with a cloned disk.
func (m *Member) copyTo(other *Member) {
	m.cluster.t.Helper()
	if err := proc.CopyDir(other.DataDir, m.DataDir); err != nil {
		m.cluster.t.Fatal(err)
	}
}

// needs kills so many others that the cluster cannot go on without m, sees it go on, and gives them
// back.
func (s *story) needs(m *Member) {
	s.t.Helper()
	quorum := len(s.members)/2 + 1
	killed := s.Others(m)[:len(s.members)-quorum]
	for _, o := range killed {
		o.Process.Kill()
	}
	s.goesOn()
	for _, o := range killed {
		o.Start()
	}
	for _, o := range killed {
		o.Serves()
	}
}
