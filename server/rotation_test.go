package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"limpet/peer"
	"limpet/trust"
)

// startSecure starts three members with a token that found a cluster together.
func startSecure(t *testing.T, token string) []*member {
	t.Helper()
	var cfgs []Config
	var founders []string
	for i := range 3 {
		cfg := secureConfig(t)
		cfg.Name, cfg.Token = fmt.Sprint("m", i+1), token
		cfgs = append(cfgs, cfg)
		founders = append(founders, cfg.Name+"="+cfg.AdvertisePeerURLs[0])
	}
	for i := range cfgs {
		cfgs[i].InitialCluster = strings.Join(founders, ",")
	}
	return startAll(t, cfgs...)
}

// newcomer is a configuration with which a member joins m.
func newcomer(t *testing.T, m *member, token string) Config {
	t.Helper()
	cfg := secureConfig(t)
	cfg.Name, cfg.Token, cfg.InitialClusterState = "late", token, "existing"
	cfg.InitialCluster = "late=" + cfg.AdvertisePeerURLs[0] + ",m1=" + m.cfg.AdvertisePeerURLs[0]
	return cfg
}

// A cluster replaces its token while it runs: who has the old one joins until
// the end and not later, and a member that is started with it again uses what it
// has stored.
func TestRotationOfARunningCluster(t *testing.T) {
	members := startSecure(t, tokenA)
	at := AdminOf(members[0].cfg.DataDir)
	if _, err := at.RotateToken(t.Context()); err != nil {
		t.Fatal(err)
	}
	inUse := func(m *member) string { return m.vault.Fingerprints()[0] }
	old := parseToken(t, tokenA).Fingerprint()
	for _, m := range members {
		eventually(t, m.cfg.Name+" to use the new token", func() bool { return inUse(m) != old && inUse(m) == inUse(members[0]) })
	}
	fresh := members[0].vault.ring.InUse().Reveal()
	members[1].put("k", "during")

	late := start(t, newcomer(t, members[0], tokenA))
	eventually(t, "the newcomer to use the new token", func() bool { return inUse(late) == inUse(members[0]) })
	eventually(t, "the end", func() bool { _, err := at.FinishRotation(t.Context()); return err == nil })
	for _, m := range append(members, late) {
		eventually(t, m.cfg.Name+" to drop the old one", func() bool { return len(m.vault.Fingerprints()) == 1 })
		wantTokens(t, m.cfg.DataDir, fresh)
	}
	members[2].put("k", "after")

	wantRefused(t, newcomer(t, members[0], tokenA))
	cfg := newcomer(t, members[0], fresh)
	cfg.InitialCluster = strings.Replace(cfg.InitialCluster, "late=", "later=", 1)
	cfg.Name = "later"
	if later := start(t, cfg); later.clusterID() != members[0].clusterID() {
		t.Errorf("with the new token a member joins cluster %x, want %x", later.clusterID(), members[0].clusterID())
	}

	members[1].stop()
	again := start(t, members[1].cfg) // with the old token
	again.wantValue("k", "after")
	wantTokens(t, again.cfg.DataDir, fresh)
}

// wantRefused starts a member that gets in nowhere, as its token is another one.
func wantRefused(t *testing.T, cfg Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log, ended := new(syncBuffer), make(chan error, 1)
	// Owner: this call; ends with cancel.
	go func() {
		_, err := Start(ctx, cfg, slog.New(slog.NewTextHandler(log, nil)))
		ended <- err
	}()
	eventually(t, "the refusal", func() bool { return log.has("another token") })
	cancel()
	if err := <-ended; err == nil {
		t.Error("a member with a token that was dropped got in")
	}
}

// A client that knows the CA of the old token, and shows its certificate, is
// served until the end of a rotation, and not later; one of the new token is
// served from the switch on.
func TestClientsDuringARotation(t *testing.T) {
	cfg := secureConfig(t)
	at := secure(freeURL(t))
	cfg.Token, cfg.AutoTLS, cfg.ClientTLS.ClientAuth = tokenA, true, true
	cfg.ListenClientURLs = append(cfg.ListenClientURLs, at)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	m := start(t, cfg)
	asks := func(token trust.Token) error {
		cert, key, err := token.IssueClient("c", nil)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return askGRPC(t, at, visitor(certOf(t, authorityOf(t, token)), &pair))
	}
	old, admin := parseToken(t, tokenA), AdminOf(cfg.DataDir)
	if err := asks(old); err != nil {
		t.Errorf("before: %v", err)
	}
	// stays opens a connection with a token's certificate and tells when it ends.
	stays := func(token trust.Token, first string) (ended chan error) {
		cert, key, err := token.IssueClient("c", nil)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.Dial("tcp", strings.TrimPrefix(at, "https://"), visitor(certOf(t, authorityOf(t, token)), &pair))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		ended = make(chan error, 1)
		// Owner: this test; ends with c.
		go func() { _, err := io.Copy(io.Discard, c); ended <- err }()
		return ended
	}
	oldOnes := []chan error{stays(old, ""), stays(old, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n")}
	if _, err := admin.RotateToken(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the switch", func() bool { return m.vault.ring.InUse().Fingerprint() != old.Fingerprint() })
	fresh := m.vault.ring.InUse()
	for _, token := range []trust.Token{old, fresh} {
		if err := asks(token); err != nil {
			t.Errorf("in between, with %s: %v", token.Fingerprint(), err)
		}
	}
	freshOne := stays(fresh, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "the end", func() bool { _, err := admin.FinishRotation(t.Context()); return err == nil })
	eventually(t, "the old token to be dropped", func() bool { return len(m.vault.Fingerprints()) == 1 })
	for i, ended := range oldOnes {
		select {
		case <-ended:
		case <-freshOne:
			t.Error("the connection of a client of the new token ended")
		case <-time.After(time.Until(soon())):
			t.Errorf("connection %d of a client of the old token is still open", i)
		}
	}
	if err := asks(old); err == nil {
		t.Error("afterwards a client of the old token is served")
	}
	if err := asks(fresh); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A stream that was made with a token ends when that is dropped.
func TestDroppedTokenEndsConnections(t *testing.T) {
	m := start(t, func() Config { c := secureConfig(t); c.Token = tokenA; return c }())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ring, err := trust.NewKeyring(parseToken(t, tokenA))
	if err != nil {
		t.Fatal(err)
	}
	self := m.local.Hello()
	thief := peer.Open(peer.Config{
		Listeners: []net.Listener{l}, TLS: ring.MemberTLS(7), Services: m.local.Services(nil),
		Self: func() peer.Hello {
			return peer.Hello{Protocol: peer.Protocol, ID: 7, Instance: 7, Cluster: self.Cluster, Address: l.Addr().String()}
		},
		Admit: func(peer.Hello) *peer.Refusal { return nil },
		Where: func(uint64) []string { return []string{m.port.Addr().String()} },
	})
	defer func() { _ = thief.Close() }()
	c, err := thief.Stream().Dial(fmt.Sprintf("%x", self.ID), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	at := AdminOf(m.cfg.DataDir)
	if _, err := at.RotateToken(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool { _, err := at.FinishRotation(t.Context()); return err == nil })
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the stream is still open")
	}
	if _, err := thief.Stream().Dial(fmt.Sprintf("%x", self.ID), 20*time.Second); !errors.Is(err, peer.ErrOtherToken) {
		t.Errorf("the old token afterwards: %v, want %v", err, peer.ErrOtherToken)
	}
}

// A token that cannot be stored is not used.
func TestVaultWritesFirst(t *testing.T) {
	dir := t.TempDir()
	changes := 0
	first := parseToken(t, tokenA)
	ring, err := trust.NewKeyring(first)
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{dir: dir, ring: ring, changed: func() { changes++ }, file: tokenFile{tokens: []trust.Token{first}}}
	b := parseToken(t, tokenB).Fingerprint()
	for what, err := range map[string]error{
		"another token than was meant": v.Add(b, tokenC),
		"no token":                     v.Add(b, "x"),
		"one that is not there":        v.Use(b),
		"the one in use":               v.Drop(v.Fingerprints()[0]),
	} {
		if err == nil || strings.Contains(err.Error(), tokenC) {
			t.Errorf("%s: %v", what, err)
		}
	}
	inTheWay := filepath.Join(dir, tokenName+".tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "full"), 0o700); err != nil { // nothing can be written
		t.Fatal(err)
	}
	if err := v.Add(b, tokenB); err == nil || len(v.Fingerprints()) != 1 || changes != 0 {
		t.Errorf("on a broken disk: %v, holds %v", err, v.Fingerprints())
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing
		for _, err := range []error{v.Add(b, tokenB), v.Use(b)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	wantTokens(t, dir, tokenB, tokenA)
	a := parseToken(t, tokenA).Fingerprint()
	if err := v.Drop(a); err != nil {
		t.Fatal(err)
	}
	f, err := readTokenFile(dir)
	if err != nil || !slices.Equal(f.retired, []string{a}) {
		t.Errorf("retired: %v, %v; want %s", f.retired, err, a)
	}
	if _, there := v.Reveal(a); there {
		t.Error("a dropped token is given away")
	}
}

// The operator's socket is for the one who runs limpet, works at the end of any
// path, takes the place of one that a crash left, and goes with the member.
func TestAdminSocket(t *testing.T) {
	for _, depth := range []int{0, 120} {
		cfg := secureConfig(t)
		cfg.DataDir = filepath.Join(cfg.DataDir, strings.Repeat("d", depth))
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(cfg.DataDir, adminName)
		if _, err := AdminOf(cfg.DataDir).Report(t.Context()); err == nil || !strings.Contains(err.Error(), "--data-dir") {
			t.Errorf("without a member: %v", err)
		}
		m := start(t, cfg)
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v, %v; want mode 0600", info, err)
		}
		if r, err := AdminOf(cfg.DataDir).Report(t.Context()); err != nil || len(r.Members) != 1 {
			t.Errorf("the report: %+v, %v", r, err)
		}
		m.stop()
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket outlives the member: %v", err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		start(t, cfg).stop()
	}
}
