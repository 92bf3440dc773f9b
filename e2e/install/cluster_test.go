//go:build linux

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"limpet/e2e/hosts"
	"limpet/e2e/hosts/witness"
)

const (
	clientPort  = 2379
	someWrites  = 100     // so many acknowledgements show that a cluster goes on
	witnessed   = "load/" // the keys that the ledger knows about
	tokenOption = "LIMPET_TOKEN=" + token
)

// reachable are the flags of a member that clients on other machines can call.
func (m *Machine) reachable() string {
	return fmt.Sprintf("--listen-client-urls http://0.0.0.0:%d --advertise-client-urls http://%s", clientPort, m.Addr(clientPort))
}

// three installs three machines at the same time, the last first: each waits for the others.
func three(t *testing.T) (*hosts.Net, []*Machine, *Mirror) {
	t.Helper()
	n, all := machines(t, 3)
	from := mirror(t, n)
	var orders []*Order
	for _, m := range slices.Backward(all) {
		orders = append(orders, m.Install(from, "--bootstrap-expect 3 "+m.reachable(), tokenOption))
	}
	for _, o := range orders {
		o.Succeeds()
	}
	for _, m := range all {
		m.hasMembers(3)
	}
	return n, all, from
}

// member is one row of the member list, as etcdctl gives it.
type member struct {
	ID        uint64   `json:"ID"`
	Name      string   `json:"name"`
	ClientURL []string `json:"clientURLs"`
	Learner   bool     `json:"isLearner"`
}

// members asks the machine's own member.
func (m *Machine) members() ([]member, error) {
	got := m.Run("etcdctl member list --write-out json")
	var list struct{ Members []member }
	if err := json.Unmarshal([]byte(got.Stdout), &list); err != nil {
		return nil, fmt.Errorf("member list on %s: %w: %s", m.Name(), err, got.Stderr)
	}
	return list.Members, nil
}

// hasMembers waits until the machine's member knows so many, all with a vote and a name, and gives
// their IDs.
func (m *Machine) hasMembers(count int) (ids []uint64) {
	m.t.Helper()
	m.Eventually(fmt.Sprintf("%d members, seen from %s", count, m.Name()), func() error {
		list, err := m.members()
		if err != nil {
			return err
		}
		ids = nil
		for _, o := range list {
			if o.Learner || o.Name == "" || len(o.ClientURL) == 0 {
				return fmt.Errorf("one of them is %+v", o)
			}
			ids = append(ids, o.ID)
		}
		if len(ids) != count {
			return fmt.Errorf("there are %d: %+v", len(ids), list)
		}
		return nil
	})
	slices.Sort(ids)
	return ids
}

// has waits until the machine's member gives a key's value.
func (m *Machine) has(key, want string) {
	m.t.Helper()
	m.Eventually(fmt.Sprintf("%s on %s", key, m.Name()), func() error {
		got := m.Run("etcdctl get --print-value-only " + key)
		if text := strings.TrimSpace(got.Stdout); got.Code != 0 || text != want {
			return fmt.Errorf("got %q, want %q (%s)", text, want, strings.TrimSpace(got.Stderr))
		}
		return nil
	})
}

// TestThree: three machines with one token become a cluster in any order; each comes back by itself
// after a reboot, and so do all of them at once.
func TestThree(t *testing.T) {
	t.Parallel()
	_, all, _ := three(t)
	for i, m := range all {
		m.runs("limpet", older)
		m.Must(fmt.Sprintf("etcdctl put from%d %s", i, m.Name()))
	}
	ids := all[0].hasMembers(3)
	reboot(all[1])
	for i, m := range all {
		all[1].has(fmt.Sprintf("from%d", i), m.Name())
	}
	all[1].Must("etcdctl put after reboot")
	all[0].has("after", "reboot")
	reboot(all...)
	for _, m := range all {
		m.has("after", "reboot")
		if got := m.hasMembers(3); !slices.Equal(got, ids) {
			t.Errorf("the members are %x, were %x", got, ids)
		}
		m.runs("limpet", older)
	}
}

// TestJoin: one machine begins alone, a second and a third join it with its token. Then one is taken
// off for a while, and one for good.
func TestJoin(t *testing.T) {
	t.Parallel()
	n, all := machines(t, 3)
	from := mirror(t, n)
	a, b, c := all[0], all[1], all[2]
	a.Install(from, a.reachable(), tokenOption).Succeeds()
	a.Must("etcdctl put begun alone")
	for _, m := range []*Machine{b, c} {
		m.Install(from, m.reachable(), tokenOption, "LIMPET_JOIN="+a.IP().String()).Succeeds()
		m.has("begun", "alone")
		m.hasSettings("join: " + a.IP().String())
	}
	ids := a.hasMembers(3)

	// With --keep-data, a machine is one that is switched off.
	data, etc := c.Must("ls -d /var/lib/limpet"), c.Read("/etc/limpet/config.yaml")
	c.Must("limpet-uninstall.sh --keep-data")
	for _, path := range []string{"/usr/local/bin/limpet", "/usr/local/bin/limpet-uninstall.sh", "/usr/local/bin/etcdctl", "/etc/systemd/system/limpet.service"} {
		if c.Exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
	if got := c.Must("ls -d " + data); got != data || c.Read("/etc/limpet/config.yaml") != etc {
		t.Error("--keep-data did not keep data and settings")
	}
	a.Must("etcdctl put while away")
	if got := a.hasMembers(3); !slices.Equal(got, ids) {
		t.Errorf("the members are %x, were %x before one was uninstalled with --keep-data", got, ids)
	}
	c.Install(from, "").Succeeds()
	c.runs("limpet", older)
	c.has("while", "away")
	if got := c.hasMembers(3); !slices.Equal(got, ids) {
		t.Errorf("the members are %x, were %x before one was uninstalled with --keep-data", got, ids)
	}

	// Without it, the member leaves first: two that are left are a majority of two, not of three.
	text := c.Must("limpet-uninstall.sh")
	if !strings.Contains(text, "leaving the cluster") {
		t.Errorf("uninstalling did not say that the member leaves:\n%s", text)
	}
	if got := a.hasMembers(2); len(got) == 2 && (!slices.Contains(ids, got[0]) || !slices.Contains(ids, got[1])) {
		t.Errorf("members are %x, of those that were %x", got, ids)
	}
	a.Must("etcdctl put after leaving")
	b.has("after", "leaving")
	if c.Exists("/var/lib/limpet") || c.Exists("/etc/limpet") {
		t.Error("data or settings of the member that left are still there")
	}
}

// TestUpgrade: three machines are upgraded one by one, by the line that installed them, while clients
// write through all of them. Nothing acknowledged is lost. There is no way back.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	n, all, from := three(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*patience, errors.New("deadline"))
	defer cancel()
	var conns []*grpc.ClientConn
	for _, m := range all {
		conn, err := grpc.NewClient("passthrough:///"+m.Addr(clientPort), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return n.DialContext(ctx, "tcp", addr)
		}), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	ledger := witness.NewLedger(witnessed)
	load := witness.StartLoad(ledger, conns)
	t.Cleanup(func() { load.Stop() })
	goesOn := func() {
		t.Helper()
		if err := ledger.AwaitWrites(ctx, someWrites); err != nil {
			t.Fatal(err)
		}
	}
	goesOn()
	from.Offer(newer)
	for _, m := range all {
		text := m.Install(from, "").Succeeds()
		if want := "upgrading limpet " + older[1:] + " to " + newer[1:]; !strings.Contains(text, want) {
			t.Errorf("install.sh on %s did not say %q:\n%s", m.Name(), want, text)
		}
		m.runs("limpet", newer)
		if _, err := pb.NewKVClient(conns[0]).Range(ctx, &pb.RangeRequest{Key: []byte("none")}, grpc.WaitForReady(true)); err != nil {
			t.Errorf("a read while %s is being upgraded: %v", m.Name(), err)
		}
		goesOn()
	}
	for _, wrong := range load.Stop() {
		t.Error(wrong)
	}
	var first *witness.History
	var to int64 // calls that were given up may still be done
	for i, m := range all {
		resp, err := pb.NewKVClient(conns[i]).Range(ctx, &pb.RangeRequest{Key: []byte(witnessed), RangeEnd: []byte("load0"), Revision: to}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatalf("read at %s: %v", m.Name(), err)
		}
		if to == 0 {
			to = resp.Header.Revision
		}
		h, wrong, err := witness.ReadHistory(ctx, conns[i], 1, to)
		if err != nil {
			t.Fatalf("history of %s: %v", m.Name(), err)
		}
		wrong = append(wrong, h.CheckState(resp.Kvs)...)
		if first == nil {
			first = h
		}
		for _, w := range append(append(wrong, first.Compare(h)...), ledger.Check(h)...) {
			t.Errorf("%s: %s", m.Name(), w)
		}
	}
	t.Log(ledger.Summary())

	m := all[0]
	pid, before := m.pid("limpet"), m.files()
	m.Install(from, "", "INSTALL_LIMPET_VERSION="+older).Refuses(older[1:] + " is older")
	if diff := differ(before, m.files()); len(diff) > 0 || m.pid("limpet") != pid {
		t.Errorf("a refused downgrade changed what runs (process %s, was %s), or files: %s", m.pid("limpet"), pid, strings.Join(diff, "\n"))
	}
}
