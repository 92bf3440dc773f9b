//go:build linux

package install

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"limpet/e2e/guide"
	"limpet/e2e/pki"
	"limpet/e2e/proc"
)

const (
	k3sConfig = "/etc/rancher/k3s/config.yaml"
	k3sStore  = "127.0.0.1:2399" // where the stand-in's own datastore listens
	socket    = "--endpoints unix:///run/limpet/limpet.sock"
	etcdKeys  = "/etc/etcd/"
	etcdTLS   = "--endpoints https://10.0.0.1:2379 --cacert " + etcdKeys + "ca.crt --cert " + etcdKeys + "client.crt --key " + etcdKeys + "client.key"
)

// standIn takes the place of k3s, and chooses a datastore as k3s does (assignManagedDriver in
// pkg/cluster/managed.go of k3s): its own etcd if that has a log already, or is to begin; the endpoint
// that it is told; or kine on a file. To an endpoint it writes a key before it says that it runs.
const standIn = `#!/bin/sh
set -eu
db=/var/lib/rancher/k3s/server/db
setting() { cat ` + k3sConfig + ` ` + k3sConfig + `.d/*.yaml 2>/dev/null | sed -n "s/^$1: //p"; }
mkdir -p $db
endpoint=$(setting datastore-endpoint)
if [ -d $db/etcd/member/wal ] || [ -n "$(setting cluster-init)" ]; then
	exec /opt/k3s/etcd --name k3s --data-dir $db/etcd --listen-client-urls http://` + k3sStore + ` --advertise-client-urls http://` + k3sStore + `
fi
if [ -n "$endpoint" ]; then
	ca=$(setting datastore-cafile) cert=$(setting datastore-certfile) key=$(setting datastore-keyfile)
	limpet etcdctl --endpoints "$endpoint" ${ca:+--cacert $ca} ${cert:+--cert $cert} ${key:+--key $key} put /k3s "$endpoint"
	systemd-notify --ready
	exec sleep infinity
fi
systemd-notify --ready
exec /opt/k3s/kine "--endpoint=sqlite://$db/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate" --listen-address=tcp://` + k3sStore + ` --metrics-bind-address=0
`

// TestK3sMoves: what docs/k3s.md says of a cluster that is there already, word for word: from kine and
// back, from kine to an etcd by way of limpet, and from etcds that run, that have left a snapshot, and
// that are k3s's own. What Kubernetes has kept is the same after each move.
func TestK3sMoves(t *testing.T) {
	t.Parallel()
	blocks := installedBlocks(t, "k3s.md")
	if len(blocks) != 8 {
		t.Fatalf("k3s.md has %d blocks for installed machines, and this test knows 8", len(blocks))
	}
	install, kine, live, snapshot, own := blocks[0], blocks[1], blocks[2], blocks[3], blocks[4]
	start, back, export := blocks[5], blocks[6], blocks[7]
	_, all := machines(t, 1, "--bind-ro="+proc.Binary(t, proc.Kine)+":/opt/k3s/kine", "--bind-ro="+proc.Binary(t, proc.Etcd)+":/opt/k3s/etcd")
	m := all[0]
	m.beside()
	m.standsIn()

	m.Must("systemctl start k3s")
	m.lives()
	m.does(install)
	before := m.objects("--endpoints http://" + k3sStore)
	m.does(kine)
	m.does(start)
	m.movedTo("limpet", socket, "unix:///run/limpet/limpet.sock", before)
	m.does(back)
	m.Eventually("kine serves again", func() error {
		if got := m.Run("limpet etcdctl --endpoints http://" + k3sStore + " get --prefix /k3s"); got.Code != 0 || got.Stdout != "" {
			return fmt.Errorf("%s%s", got.Stdout, got.Stderr)
		}
		return nil
	})
	same(t, "kine again", m.objects("--endpoints http://"+k3sStore), before)

	m.Must("systemctl stop k3s")
	m.does(start)
	m.startEtcd()
	m.does(export)
	exported := m.objects(etcdTLS)
	same(t, "the keys of etcd", keysAlone(exported), keysAlone(before))
	m.movedTo("etcd", etcdTLS, "https://etcd1:2379", exported)

	m.Must("limpet etcdctl " + etcdTLS + " snapshot save /root/here/snapshot.db")
	for _, block := range []guide.Block{live, snapshot} {
		m.startsAnew()
		m.does(install)
		m.does(block)
		m.does(start)
		m.movedTo(block.Name(), socket, "unix:///run/limpet/limpet.sock", exported)
	}

	m.startsAnew()
	m.Write(k3sConfig, "cluster-init: true\n", 0o600)
	m.Must("systemctl start k3s")
	m.lives()
	m.does(install)
	before = m.objects("--endpoints http://" + k3sStore)
	m.does(own)
	m.Must("rm " + k3sConfig)
	m.does(start)
	m.movedTo("k3s's own etcd", socket, "unix:///run/limpet/limpet.sock", before)
}

// does runs a block of a guide where install.sh and the program are, and each command has to do what it
// says there.
func (m *Machine) does(b guide.Block) {
	m.t.Helper()
	steps, err := b.Steps()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, s := range steps {
		o := m.Start("a guide", "cd /root/here\n"+s.Command)
		code := o.Code()
		if wrong := s.Judge(o.Log.Text(), code); wrong != "" {
			m.t.Fatalf("%s:%d, on %s:\n$ %s\n%s%s", b.File, s.Line, m.Name(), s.Command, o.Log.Text(), wrong)
		}
	}
}

// standsIn puts a service named k3s onto the machine.
func (m *Machine) standsIn() {
	m.t.Helper()
	m.Write("/usr/local/bin/k3s", standIn, 0o755)
	m.Write("/etc/systemd/system/k3s.service", "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/local/bin/k3s\n", 0o644)
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("the journal:\n%s", lastLines(m.Must("journalctl --no-pager -u k3s -u limpet -u etcd"), 60))
		}
	})
	m.Must("systemctl daemon-reload")
}

// lives has a Kubernetes write some objects to the stand-in's own datastore, in transactions of the
// kind that it sends: kine takes no others.
func (m *Machine) lives() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + k3sStore}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return m.DialContext(ctx, "tcp", addr)
		})},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	m.Eventually("the datastore answers", func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := c.Get(ctx, "/registry/health")
		return err
	})
	write := func(rev int64, key string, op clientv3.Op) int64 {
		txn := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).Then(op)
		if rev > 0 {
			txn = txn.Else(clientv3.OpGet(key))
		}
		got, err := txn.Commit()
		if err != nil || !got.Succeeded {
			m.t.Fatalf("write %s of revision %d: %+v, %v", key, rev, got, err)
		}
		return got.Header.Revision
	}
	for i := range 20 {
		key := fmt.Sprintf("/registry/things/%02d", i)
		rev := write(0, key, clientv3.OpPut(key, fmt.Sprint("created ", i)))
		if i%2 == 0 {
			rev = write(rev, key, clientv3.OpPut(key, fmt.Sprint("changed ", i)))
		}
		if i%5 == 0 {
			write(rev, key, clientv3.OpDelete(key))
		}
	}
}

// objects lists what Kubernetes has in the store that etcdctl's flags name. Versions are left out,
// which kine does not count.
func (m *Machine) objects(flags string) (all []string) {
	m.t.Helper()
	text := m.Must("limpet etcdctl " + flags + " get --prefix /registry/things/ --write-out json")
	var got struct {
		Kvs []struct {
			Key, Value []byte
			Created    int64 `json:"create_revision"`
			Changed    int64 `json:"mod_revision"`
		}
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		m.t.Fatalf("%s: %v", text, err)
	}
	for _, kv := range got.Kvs {
		all = append(all, fmt.Sprintf("%s=%s, created at %d, changed at %d", kv.Key, kv.Value, kv.Created, kv.Changed))
	}
	if len(all) != 16 {
		m.t.Fatalf("%s: there are %d objects, want 16: %q", flags, len(all), all)
	}
	return all
}

// keysAlone leaves the revisions out.
func keysAlone(objects []string) (all []string) {
	for _, o := range objects {
		key, _, _ := strings.Cut(o, ", created at")
		all = append(all, key)
	}
	return all
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// movedTo checks that a store has these objects, and that k3s has written to it by its endpoint. What
// root has imported is the service's.
func (m *Machine) movedTo(what, flags, endpoint string, want []string) {
	m.t.Helper()
	same(m.t, what, m.objects(flags), want)
	if got := m.Must("limpet etcdctl " + flags + " get --print-value-only /k3s"); got != endpoint {
		m.t.Errorf("%s: k3s has written %q, want %q", what, got, endpoint)
	}
	m.runs("limpet", older)
	if got := m.Must("find /var/lib/limpet* ! -user limpet -o ! -group limpet; ls -d /var/lib/limpet*"); got != "/var/lib/limpet" {
		m.t.Errorf("%s: not the service's, or left over:\n%s", what, got)
	}
}

// startEtcd has an etcd with TLS serve as etcd1 and 10.0.0.1.
func (m *Machine) startEtcd() {
	m.t.Helper()
	ca := pki.New(m.t, "etcd-ca")
	server := ca.Issue(pki.Leaf{CN: "etcd1", Names: []string{"etcd1", "10.0.0.1"}})
	client := ca.Issue(pki.Leaf{CN: "k3s", Usages: pki.Client})
	for name, from := range map[string]string{
		"ca.crt": ca.File, "server.crt": server.CertFile, "server.key": server.KeyFile, "client.crt": client.CertFile, "client.key": client.KeyFile,
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			m.t.Fatal(err)
		}
		m.Write(etcdKeys+name, string(text), 0o600)
	}
	m.Must("ip addr add 10.0.0.1/32 dev lo && echo '10.0.0.1 etcd1' >>/etc/hosts")
	m.Must("systemd-run --unit etcd --property Type=notify /opt/k3s/etcd --name etcd1 --data-dir /var/lib/etcd" +
		" --listen-client-urls https://10.0.0.1:2379 --advertise-client-urls https://etcd1:2379" +
		" --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 --initial-cluster etcd1=http://127.0.0.1:12380" +
		" --client-cert-auth --trusted-ca-file " + etcdKeys + "ca.crt --cert-file " + etcdKeys + "server.crt --key-file " + etcdKeys + "server.key")
}

// startsAnew takes limpet off the machine, and what k3s was told and has kept.
func (m *Machine) startsAnew() {
	m.t.Helper()
	m.Must("systemctl stop k3s")
	m.Start("uninstall", "limpet-uninstall.sh").Succeeds()
	m.Must("rm -rf /etc/rancher /var/lib/rancher")
}
