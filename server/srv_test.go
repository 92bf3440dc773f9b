package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is a name server: for each service the ports that its records name, all
// on this machine.
type zone map[string][]uint16

// resolver asks the zone, over UDP on this machine.
func (z zone) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	at, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = at.Close() })
	// Owner: the test; ends when the socket is closed.
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := at.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := z.answer(buf[:n]); answer != nil {
				_, _ = at.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", at.LocalAddr().String())
	}}
}

// answer is nil to what is no question.
func (z zone) answer(question []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(question)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true}, Questions: []dnsmessage.Question{q}}
	ports := z[strings.TrimSuffix(q.Name.String(), ".")]
	if len(ports) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, port := range ports {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeSRV, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.SRVResource{Target: dnsmessage.MustNewName("localhost."), Port: port},
		})
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func portOf(t *testing.T, u string) uint16 {
	t.Helper()
	at, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(at.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// Three members that know no more than a domain become one cluster, and do not ask
// the DNS again.
func TestDiscoverySRV(t *testing.T) {
	z := zone{}
	var cfgs [3]Config
	for i := range cfgs {
		cfgs[i] = newConfig(t)
		cfgs[i].Name, cfgs[i].SRVDomain, cfgs[i].SRVName = fmt.Sprint("m", i+1), "example.com", "blue"
		if err := cfgs[i].Validate(); err != nil {
			t.Fatal(err)
		}
		z["_etcd-server-blue._tcp.example.com"] = append(z["_etcd-server-blue._tcp.example.com"], portOf(t, cfgs[i].AdvertisePeerURLs[0]))
	}
	dns := z.resolver(t)
	var members [3]*member
	var wg sync.WaitGroup
	for i, cfg := range cfgs {
		cfg.resolver = dns
		// Owner: this call.
		wg.Go(func() { members[i] = start(t, cfg) })
	}
	wg.Wait()
	members[0].put("a", "1")
	for _, m := range members {
		m.wantValue("a", "1")
	}
	members[2].stop()
	cfgs[2].resolver = zone{}.resolver(t)
	start(t, cfgs[2]).wantValue("a", "1")
}

// What the DNS says must make sense before a member begins.
func TestDiscoverySRVRefuses(t *testing.T) {
	cfg := newConfig(t)
	cfg.SRVDomain = "example.com"
	port := portOf(t, cfg.AdvertisePeerURLs[0])
	for _, c := range []struct {
		name string
		zone zone
		want []string // parts of the sentence
	}{
		{"nothing", zone{}, []string{"--discovery-srv example.com names no members: ", "_etcd-server-ssl", "_etcd-server:", "no such host"}},
		{
			"others only", zone{"_etcd-server._tcp.example.com": {port - 1}},
			[]string{`cannot find local etcd member "default" in SRV records: none of those of example.com leads to ` + cfg.AdvertisePeerURLs[0]},
		},
		{
			"another scheme", zone{"_etcd-server-ssl._tcp.example.com": {port}},
			[]string{fmt.Sprintf("bootstrap at https://localhost:%d from DNS for etcd-server-ssl has scheme mismatch with expected peer %s", port, cfg.AdvertisePeerURLs[0])},
		},
	} {
		cfg.resolver = c.zone.resolver(t)
		_, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Fatalf("%s: a member has started", c.name)
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v, want it to say %q", c.name, err, part)
			}
		}
	}
}

// A member that was to meet others at a discovery service begins no cluster; one
// that has its data does not need it any more.
func TestDiscoveryServicesAreRefused(t *testing.T) {
	cfg := newConfig(t)
	for set, want := range map[string]func(*Config){
		"--discovery: ":           func(c *Config) { c.DiscoveryURL = "https://discovery.etcd.io/x" },
		"--discovery-endpoints: ": func(c *Config) { c.DiscoveryToken, c.DiscoveryEndpoints = "t", []string{"a:2379"} },
	} {
		c := cfg
		want(&c)
		_, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
		wantSentence(t, "a new member", err, set+"limpet asks no discovery service; give --join or --discover and the token, --discovery-srv, or name the members with --initial-cluster")
	}
	start(t, cfg).stop()
	cfg.DiscoveryURL = "https://discovery.etcd.io/x"
	start(t, cfg).put("a", "1")
}
