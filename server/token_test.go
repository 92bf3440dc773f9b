package server

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"limpet/peer"
	"limpet/trust"
)

const (
	tokenA = "000102030405060708090a0b0c0d0e0f"
	tokenB = "f00102030405060708090a0b0c0d0e0f"
	tokenC = "f10102030405060708090a0b0c0d0e0f"
)

func parseToken(t *testing.T, text string) trust.Token {
	t.Helper()
	token, err := trust.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// secureConfig is a valid configuration of a member whose peers speak TLS; it
// gossips on loopback.
func secureConfig(t *testing.T) Config {
	t.Helper()
	cfg := newConfig(t)
	cfg.ListenPeerURLs = []string{strings.Replace(freeURL(t), "http:", "https:", 1)}
	cfg.AdvertisePeerURLs, cfg.GossipAddress = cfg.ListenPeerURLs, "127.0.0.1:0"
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// wantTokens checks the tokens in a data directory, the one in use first.
func wantTokens(t *testing.T, dir string, want ...string) {
	t.Helper()
	f, err := readTokenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, token := range f.tokens {
		got = append(got, token.Reveal())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the tokens in %s: got %v, want %v", dir, got, want)
	}
}

// The first start of a member that begins a cluster makes the token, shows it
// once, and keeps it where nobody else can read it; later starts use it.
func TestTokenIsMadeOnce(t *testing.T) {
	cfg := secureConfig(t)
	var shown []string
	cfg.ShowToken = func(token string) {
		shown = append(shown, token)
		wantTokens(t, cfg.DataDir, token) // it is stored before anybody sees it
	}
	log := new(syncBuffer)
	for range 2 {
		s, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		if err != nil {
			t.Fatal(err)
		}
		if s.gossip == nil || s.local.Hello().Cluster == 0 {
			t.Error("the member does not gossip, or is in no cluster")
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	if len(shown) != 1 || len(shown[0]) != 32 {
		t.Fatalf("shown: %q, want one token", shown)
	}
	if log.has(shown[0]) {
		t.Error("the token is in the log")
	}
	info, err := os.Stat(filepath.Join(cfg.DataDir, tokenName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", info.Mode(), err)
	}
	if got, err := StoredToken(cfg.DataDir); err != nil || got.Reveal() != shown[0] {
		t.Errorf("StoredToken: got %q, %v", got.Reveal(), err)
	}
}

// A member that has lost its token does not go on in plain, and takes the token of
// another member.
func TestLostToken(t *testing.T) {
	cfg := secureConfig(t)
	start(t, cfg).stop()
	token, err := StoredToken(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cfg.DataDir, tokenName)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	plain := newConfig(t)
	plain.DataDir = cfg.DataDir
	for _, c := range []Config{cfg, plain} {
		if err := c.readTokens(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), file+" is missing") {
			t.Errorf("with %v: got %v, want that %s is missing", c.ListenPeerURLs, err, file)
		}
	}
	cfg.Token = token.Reveal()
	start(t, cfg).stop()
	wantTokens(t, cfg.DataDir, token.Reveal())
}

// A token is made only where a member begins a cluster by itself, and nobody has
// said that its members speak plainly.
func TestWhoMakesAToken(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Config)
		want bool
	}{
		{"nothing said", func(*Config) {}, true},
		{"alone by etcd's flag", func(c *Config) { c.InitialCluster = "default=https://127.0.0.1:1" }, true},
		{"https peer URLs", func(c *Config) { c.ListenPeerURLs = []string{"https://127.0.0.1:1"} }, true},
		{"http peer URLs", func(c *Config) { c.ListenPeerURLs = []string{"http://127.0.0.1:1"} }, false},
		{"http advertised", func(c *Config) { c.AdvertisePeerURLs = []string{"http://127.0.0.1:1"} }, false},
		{"http in the initial cluster", func(c *Config) { c.InitialCluster = "default=http://localhost:2380" }, false},
		{"several members", func(c *Config) { c.InitialCluster = "default=https://127.0.0.1:1,b=https://127.0.0.1:2" }, false},
		{"an existing cluster", func(c *Config) { c.InitialClusterState = "existing" }, false},
		{"expecting others", func(c *Config) { c.BootstrapExpect = 3 }, false},
		{"joining", func(c *Config) { c.Join = []string{"127.0.0.1"} }, false},
		{"discovering", func(c *Config) { c.Discover = true }, false},
		{"in a cluster without a token", func(c *Config) {
			id := identity{Format: 1, MemberID: "a", ClusterID: "b"}
			if err := writeIdentity(c.DataDir, id); err != nil {
				panic(err)
			}
		}, false},
		{"a start that came to nothing", func(c *Config) {
			if err := writeIdentity(c.DataDir, identity{Format: 1, MemberID: "a"}); err != nil {
				panic(err)
			}
		}, true},
		{"looking for its recovered cluster", func(c *Config) {
			if err := writeIdentity(c.DataDir, identity{Format: 1, MemberID: "a", Rejoin: true}); err != nil {
				panic(err)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.DataDir = t.TempDir()
			c.set(&cfg)
			if got := cfg.mintsToken(); got != c.want {
				t.Errorf("makes a token: got %v, want %v", got, c.want)
			}
		})
	}
}

// What is stored counts, unless the operator gives another token; one that was
// rotated out is none.
func TestGivenAndStored(t *testing.T) {
	retired := parseToken(t, tokenC).Fingerprint()
	for _, c := range []struct {
		name, given, says string
		want              []string
	}{
		{"nothing given", "", "", []string{tokenA, tokenB}},
		{"the one in use", tokenA, "", []string{tokenA, tokenB}},
		{"the other one", tokenB, "", []string{tokenA, tokenB}},
		{"a retired one", tokenC, "was replaced by limpet token rotate", []string{tokenA, tokenB}},
		{"a wish", tokenA + "ff", "takes the place", []string{tokenA + "ff"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := secureConfig(t)
			if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
				t.Fatal(err)
			}
			stored := tokenFile{tokens: []trust.Token{parseToken(t, tokenA), parseToken(t, tokenB)}, retired: []string{retired}}
			if err := stored.write(cfg.DataDir); err != nil {
				t.Fatal(err)
			}
			cfg.Token = c.given
			log := new(syncBuffer)
			if err := cfg.readTokens(slog.New(slog.NewTextHandler(log, nil))); err != nil {
				t.Fatal(err)
			}
			if err := cfg.held.write(cfg.DataDir); err != nil {
				t.Fatal(err)
			}
			wantTokens(t, cfg.DataDir, c.want...)
			if !slices.Equal(cfg.held.retired, []string{retired}) {
				t.Errorf("retired: %v", cfg.held.retired)
			}
			kept, err := os.ReadFile(filepath.Join(cfg.DataDir, tokenName+beforeSuffix))
			if wish := c.says == "takes the place"; wish != (err == nil) || wish && !strings.HasPrefix(string(kept), tokenA+"\n") {
				t.Errorf("beside is %q, %v", kept, err)
			}
			if c.says != "" && !log.has(c.says) || c.given != "" && log.has(c.given) {
				t.Errorf("the log does not say %q, or shows the token:\n%s", c.says, log.buf.String())
			}
		})
	}
}

// A token that was given is kept, so that the next start needs none.
func TestGivenTokenIsStored(t *testing.T) {
	cfg := secureConfig(t)
	cfg.TokenFile = filepath.Join(t.TempDir(), "t")
	if err := os.WriteFile(cfg.TokenFile, []byte(" "+strings.ToUpper(tokenA)+"\r\nalso "+tokenB+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	log := new(syncBuffer)
	s, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if !log.has("chmod 600") {
		t.Error("the log does not warn of a token file that others can read")
	}
	cfg.TokenFile = ""
	start(t, cfg)
	wantTokens(t, cfg.DataDir, tokenA)
}

func TestTokenFilesThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "holds no token",
		"\n\n":                       "holds no token",
		"short":                      "not hexadecimal",
		"0011":                       "16 bits",
		tokenA + "\n" + tokenB:       "neither a token nor",
		"also " + tokenA:             "neither a token nor",
		tokenA + "\nalso 00":         "8 bits",
		tokenA + "\nretired":         "neither a token nor",
		tokenA + "\nalso a b":        "neither a token nor",
		"retired 0011223344556677\n": "holds no token",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tokenName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := newConfig(t)
		cfg.DataDir = dir
		if _, err := StoredToken(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "limpet token show") || strings.Contains(err.Error(), tokenA) {
			t.Errorf("%q: %v, want %q and what to do", text, err, want)
		}
	}
	dir := t.TempDir()
	if _, err := StoredToken(dir); err == nil || !strings.Contains(err.Error(), "there is no token in "+dir) {
		t.Errorf("an empty directory: %v", err)
	}
}

// Members that speak plainly beyond their machine say so in the log and in
// limpet status; on loopback they need not.
func TestPlainPeersAreSaid(t *testing.T) {
	for host, warns := range map[string]bool{"127.0.0.1": false, "0.0.0.0": true} {
		cfg := newConfig(t)
		cfg.ListenPeerURLs[0] = strings.Replace(cfg.ListenPeerURLs[0], "127.0.0.1", host, 1)
		cfg.AdvertisePeerURLs = []string{strings.Replace(cfg.ListenPeerURLs[0], host, "127.0.0.1", 1)}
		log := new(syncBuffer)
		s, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		const text = "members speak to each other without encryption"
		told := slices.ContainsFunc(s.local.Report(t.Context()).Notices, func(n peer.Notice) bool { return strings.Contains(n.Text, text) })
		if told != warns || log.has(text) != warns {
			t.Errorf("%s: in the report %v, in the log %v; want %v", fmt.Sprint(cfg.ListenPeerURLs), told, log.has(text), warns)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever may write the data directory shall not choose the token unnoticed.
func TestForeignToken(t *testing.T) {
	cfg := secureConfig(t)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	stored := tokenFile{tokens: []trust.Token{parseToken(t, tokenA)}}
	if err := stored.write(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	if err := os.Chown(filepath.Join(cfg.DataDir, tokenName), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := cfg.readTokens(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("a token of somebody else: %v", err)
	}
	if err := os.Chown(cfg.DataDir, 65534, 65534); err != nil { // a member that runs as that user
		t.Fatal(err)
	}
	if err := cfg.readTokens(slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("root looks at another user's member: %v", err)
	}
}

func TestOpenDataDirIsANotice(t *testing.T) {
	cfg := newConfig(t)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(cfg.DataDir, 0o777); err != nil {
		t.Fatal(err)
	}
	m := start(t, cfg)
	says := func(n peer.Notice) bool { return strings.Contains(n.Text, "may change the data directory") }
	if !slices.ContainsFunc(m.notices.Recent(), says) {
		t.Errorf("notices: %v", m.notices.Recent())
	}
}
