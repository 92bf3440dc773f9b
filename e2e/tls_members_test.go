package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"limpet/e2e/pki"
	"limpet/e2e/proc"
)

// kubeadm is a cluster that is started as kubeadm starts etcd: static, with certificates of one
// authority for members, servers and clients.
type kubeadm struct {
	t       *testing.T
	ca      *pki.CA
	members []*proc.Server
	tls     []string    // addresses of the TLS ports of clients
	peers   []*pki.Pair // certificates between members
	client  *pki.Pair   // of kube-apiserver
}

func newKubeadm(t *testing.T, n int) *kubeadm {
	k := &kubeadm{t: t, ca: pki.New(t, "etcd-ca")}
	k.client = k.ca.Issue(pki.Leaf{CN: "kube-apiserver-etcd-client", Usages: pki.Client})
	var initial []string
	for i := range n {
		s := k.prepare(fmt.Sprint("m", i+1))
		initial = append(initial, s.Name+"=https://"+s.Peer)
	}
	for _, s := range k.members {
		proc.Flags("--initial-cluster=" + strings.Join(initial, ","))(s)
		s.Launch()
	}
	for _, s := range k.members {
		if err := s.Ready(); err != nil {
			t.Fatalf("%s is not ready: %v", s.Name, err)
		}
	}
	return k
}

// prepare makes a member that is not started yet.
func (k *kubeadm) prepare(name string) *proc.Server {
	s := proc.New(k.t, proc.Limpet)
	s.Name = name
	addr := proc.FreeAddr(k.t)
	server := k.ca.Issue(pki.Leaf{CN: name, Names: loopback})
	peer := k.ca.Issue(pki.Leaf{CN: name, Names: loopback})
	proc.Flags(
		"--listen-client-urls="+s.ClientURL()+",https://"+addr, "--advertise-client-urls=https://"+addr,
		"--cert-file="+server.CertFile, "--key-file="+server.KeyFile, "--client-cert-auth=true", "--trusted-ca-file="+k.ca.File,
		"--listen-peer-urls=https://"+s.Peer, "--initial-advertise-peer-urls=https://"+s.Peer,
		"--peer-cert-file="+peer.CertFile, "--peer-key-file="+peer.KeyFile, "--peer-client-cert-auth=true", "--peer-trusted-ca-file="+k.ca.File,
	)(s)
	k.members, k.tls, k.peers = append(k.members, s), append(k.tls, addr), append(k.peers, peer)
	return s
}

// try runs a limpet command with a client's certificate at the TLS port of member i.
func (k *kubeadm) try(i int, args ...string) (string, error) {
	k.t.Helper()
	res := proc.Command{Path: proc.Binary(k.t, proc.Limpet), Args: args, Env: []string{
		"ETCDCTL_ENDPOINTS=https://" + k.tls[i], "ETCDCTL_CACERT=" + k.ca.File, "ETCDCTL_CERT=" + k.client.CertFile, "ETCDCTL_KEY=" + k.client.KeyFile,
	}}.Run(k.t)
	if res.Code != 0 {
		return "", fmt.Errorf("limpet %s: %d, %s", strings.Join(args, " "), res.Code, res.Stderr)
	}
	return res.Stdout, nil
}

// run is a command that must succeed.
func (k *kubeadm) run(i int, args ...string) string {
	k.t.Helper()
	out, err := k.try(i, args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// retry repeats a command that the cluster refuses for a while.
func (k *kubeadm) retry(i int, args ...string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeoutCause(k.t.Context(), patience, errors.New("deadline"))
	defer cancel()
	err := proc.Eventually(ctx, 50*time.Millisecond, func() error { _, err := k.try(i, args...); return err })
	if err != nil {
		k.t.Fatal(err)
	}
}

// agree writes at each member and reads it at all.
func (k *kubeadm) agree(key string) {
	k.t.Helper()
	for i := range k.members {
		value := fmt.Sprint(key, i)
		k.run(i, "etcdctl", "put", key, value)
		for j := range k.members {
			if got := k.run(j, "etcdctl", "get", key, "--print-value-only"); got != value+"\n" {
				k.t.Errorf("m%d has %q, want %q", j+1, got, value)
			}
		}
	}
}

// rejected is what member i has counted at its peer port, by reason.
func (k *kubeadm) rejected(i int) map[string]string {
	k.t.Helper()
	resp, err := http.Get(k.members[i].ClientURL() + "/metrics")
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, `limpet_peer_rejected_connections_total{reason="`); ok {
			reason, value, _ := strings.Cut(rest, `"} `)
			out[reason] = strings.TrimSpace(value)
		}
	}
	return out
}

// TestMembersWithGivenTLS tells of a cluster as kubeadm makes it: clients and strangers at both of its ports, files
// that are replaced, and a member that is added.
func TestMembersWithGivenTLS(t *testing.T) {
	needsLimpet(t)
	k := newKubeadm(t, 3)
	k.agree("first")
	if out := k.run(1, "status"); strings.Count(out, " ok ") != 3 {
		t.Errorf("limpet status does not show three members that are well:\n%s", out)
	}
	if out := k.run(2, "member", "list"); strings.Count(out, "https://") != 6 {
		t.Errorf("limpet member list does not show two https URLs for each of three members:\n%s", out)
	}
	t.Run("strangers", func(t *testing.T) { k.strangers(t) })
	k.agree("after strangers")

	// All certificates between members are replaced, and each member comes back.
	for i, p := range k.peers {
		k.ca.Issue(pki.Leaf{CN: "renewed", Names: loopback}).Copy(t, p)
		k.members[i].Terminate(patience)
		k.members[i].Run()
	}
	k.agree("renewed")

	k.add()
	k.agree("grown")

	// The authority between members is replaced while they run: they trust another one beside the old, and
	// show what that has signed. Only the first is started again, and trusts the new one alone.
	next := pki.New(t, "next-ca")
	for _, p := range k.peers {
		next.Issue(pki.Leaf{CN: "signed anew", Names: loopback}).Copy(t, p)
	}
	k.trust(next)
	proc.Flags("--peer-trusted-ca-file=" + next.File)(k.members[0])
	k.members[0].Terminate(patience)
	k.members[0].Run()
	k.agree("another authority")
}

// trust adds an authority to the bundle that all members have.
func (k *kubeadm) trust(next *pki.CA) {
	k.t.Helper()
	var both []byte
	for _, file := range []string{k.ca.File, next.File} {
		data, err := os.ReadFile(file)
		if err != nil {
			k.t.Fatal(err)
		}
		both = append(both, data...)
	}
	if err := os.WriteFile(k.ca.File, both, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// strangers come to the port for clients, and to that for members, of the first member.
func (k *kubeadm) strangers(t *testing.T) {
	foreign := pki.New(t, "foreign")
	old := visitor(k.ca, k.client)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for _, s := range []struct {
		name   string
		cfg    *tls.Config // nil: plain
		client bool        // let in as a client
		why    string      // turned away by members
	}{
		{"plain", nil, false, "plain"},
		{"no certificate", visitor(k.ca, nil), false, "handshake"},
		{"an old version", old, false, "handshake"},
		{"foreign", visitor(k.ca, foreign.Issue(pki.Leaf{Names: loopback})), false, "certificate"},
		{"expired", visitor(k.ca, k.ca.Issue(pki.Leaf{Names: loopback, Until: time.Now().Add(-time.Minute)})), false, "certificate"},
		{"a client", visitor(k.ca, k.client), true, "certificate"},
		{"a server", visitor(k.ca, k.ca.Issue(pki.Leaf{Names: loopback, Usages: pki.Server})), false, "certificate"},
		{"a member elsewhere", visitor(k.ca, k.ca.Issue(pki.Leaf{Names: []string{"192.0.2.1"}})), true, "certificate"},
	} {
		if s.cfg != nil {
			for _, v := range visits {
				if err := v.come(t, k.tls[0], s.cfg); (err == nil) != s.client {
					t.Errorf("%s as a client over %s: %v, want it let in: %v", s.name, v.name, err, s.client)
				}
			}
		}
		before := k.rejected(0)
		knock(t, k.members[0].Peer, s.cfg)
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("deadline"))
		err := proc.Eventually(ctx, 10*time.Millisecond, func() error {
			for reason, n := range k.rejected(0) {
				if (n != before[reason]) != (reason == s.why) {
					return fmt.Errorf("%s: %s was %s and is %s, want one more of %s alone", s.name, reason, before[reason], n, s.why)
				}
			}
			return nil
		})
		cancel()
		if err != nil {
			t.Error(err)
		}
	}
}

// knock comes to a port for members and says something, until it is closed.
func knock(t *testing.T, addr string, cfg *tls.Config) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		c = tls.Client(c, cfg.Clone())
	}
	io.WriteString(c, "GET / HTTP/1.1\r\n\r\n") // whether it can be said depends on the version of TLS
	if said, err := io.ReadAll(c); err != nil && strings.Contains(err.Error(), "timeout") || strings.Contains(string(said), "HTTP") {
		t.Errorf("answered with %q, %v", said, err)
	}
}

// add has a fourth member join, as kubeadm does it: announced first, a learner.
func (k *kubeadm) add() {
	k.t.Helper()
	initial := ""
	for _, s := range k.members {
		initial += s.Name + "=https://" + s.Peer + ","
	}
	s := k.prepare("m4")
	// Members must have been connected for five seconds, as in etcd.
	k.retry(0, "etcdctl", "member", "add", "m4", "--learner", "--peer-urls=https://"+s.Peer)
	proc.Flags("--initial-cluster="+initial+"m4=https://"+s.Peer, "--initial-cluster-state=existing")(s)
	s.Launch()
	k.retry(0, "member", "promote", "m4")
	if err := s.Ready(); err != nil {
		k.t.Fatalf("m4 is not ready: %v", err)
	}
	if out := k.run(0, "member", "list"); strings.Count(out, " voter ") != 4 {
		k.t.Errorf("want four voters, got\n%s", out)
	}
}
