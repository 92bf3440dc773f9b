//go:build linux

package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tokens are stories of the token's life.
var tokens = []tale{
	{"FirstBoardMakesIt", board, 2, firstBoardMakesIt},
	{"Rotation", board, 5, rotation},
}

const (
	allUseNew   = "all use the new one"
	notAllHave  = "until these have the new one, all use the old: "
	givenIsGone = "the token given was replaced by limpet token rotate"
)

// firstBoardMakesIt begins with a board that was told nothing; the other one is given what the first
// has made, which no log shows.
func firstBoardMakesIt(t *testing.T, c *Cluster) {
	b := c.enlist(2)
	b[0].Start()
	b[0].Serves()
	if !strings.Contains(b[0].Process.Log.Text(), "Its token, for members that are to join: in the file named below\n") {
		t.Fatalf("nothing tells of the token in\n%s", b[0].Process.Log.Text())
	}
	token := b[0].token()
	b[1].Way = []string{at(b[0]), "--token=" + token} // limpet takes it off its command line
	b[1].Start()
	c.voters(b...)
	b[0].Stop()
	b[0].Start()
	c.voters(b...)
	nobodyTells(t, b, token)
}

// rotation replaces the token under load, with a member that is off at first and a leader that is
// killed on the way; then boards come with the old token and with the new one.
func rotation(t *testing.T, c *Cluster) {
	b := c.foundAny()
	s := begin(t, c)
	away := c.Others(c.Leader(b...))[0]
	away.Process.Kill()
	asked := c.Others(away)[0]
	if r := asked.command("token", "rotate", "--data-dir="+asked.DataDir, "--timeout=2s"); r.Code != 0 || !strings.Contains(r.Stdout, notAllHave+away.Name) {
		t.Fatalf("limpet token rotate: %+v, want that it waits for %s", r, away.Name)
	}
	asked.tells(notAllHave + away.Name)
	s.goesOn()
	away.Start()
	killed := c.Leader(c.Others(away)...)
	killed.Process.Kill()
	c.Leader(c.Others(killed)...)
	s.goesOn()
	killed.Start()
	for _, m := range b {
		m.tells(allUseNew)
	}
	s.goesOn()

	old, late := c.spares[0], c.spares[1]
	old.comes("--discover")
	all := append(append([]*Member(nil), b...), old)
	c.voters(all...)
	c.Eventually("the end", func(context.Context) error {
		if r := asked.command("token", "rotate", "--data-dir="+asked.DataDir, "--finish"); r.Code != 0 {
			return fmt.Errorf("limpet token rotate --finish: %s", r.Stderr)
		}
		return nil
	})
	s.goesOn()
	fresh := asked.token()
	for _, m := range all {
		m.dropped(fresh)
	}

	late.comes(at(asked))
	late.tells("is in no cluster yet", "another token")
	late.Process.Kill()
	late.wipe()
	late.Process.Env = []string{"LIMPET_TOKEN=" + fresh}
	late.Start()
	all = append(all, late)
	c.voters(all...)
	away.Stop()
	away.Start() // with the old token in its environment
	away.logs(givenIsGone)
	c.voters(all...)
	s.goesOn()
	s.end()
	nobodyTells(t, all, token, fresh)
}

// token is what limpet token show prints for m's data directory.
func (m *Member) token() string {
	m.cluster.t.Helper()
	r := m.command("token", "show", "--data-dir="+m.DataDir)
	if r.Code != 0 || len(strings.TrimSpace(r.Stdout)) != 2*16 {
		m.cluster.t.Fatalf("limpet token show on %s: %+v", m.Name, r)
	}
	return strings.TrimSpace(r.Stdout)
}

// dropped waits until m keeps fresh, and no other token.
func (m *Member) dropped(fresh string) {
	m.cluster.t.Helper()
	m.cluster.Eventually(m.Name+" to keep the new token alone", func(context.Context) error {
		data, err := os.ReadFile(filepath.Join(m.DataDir, "token"))
		if err == nil && (!bytes.HasPrefix(data, []byte(fresh+"\nretired ")) || bytes.Contains(data, []byte("also")) || bytes.Contains(data, []byte(token))) {
			err = fmt.Errorf("the file has %d bytes that say something else", len(data))
		}
		return err
	})
}

// nobodyTells checks that no member shows a secret: in its log, to whoever asks over HTTP, in limpet
// status, in the process list, or in its data beside the token's file.
func nobodyTells(t *testing.T, members []*Member, secrets ...string) {
	t.Helper()
	for _, m := range members {
		places := map[string]string{"its log": m.Process.Log.Text(), "limpet status": m.status() + m.command("status", "--output=json").Stdout}
		for _, path := range []string{"/metrics", "/debug/vars", "/limpet/v1/cluster", "/health", "/version"} {
			places[path] = m.get(path)
		}
		for place, text := range places {
			for i, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s: secret %d is in %s", m.Name, i, place)
				}
			}
		}
		m.leaksInFiles(secrets)
	}
}

// leaksInFiles looks into the process list and into the data directory.
func (m *Member) leaksInFiles(secrets []string) {
	m.cluster.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.DataDir, "*"))
	logs, err2 := filepath.Glob(filepath.Join(m.DataDir, "raft", "*"))
	if err != nil || err2 != nil || len(logs) == 0 {
		m.cluster.t.Fatalf("the data of %s: %v, %v", m.Name, err, err2)
	}
	for _, file := range append(append(files, logs...), fmt.Sprintf("/proc/%d/cmdline", m.Process.PID())) {
		if filepath.Base(file) == "token" {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			continue // a folder, a socket, or gone meanwhile
		}
		for i, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				m.cluster.t.Errorf("%s: secret %d is in %s", m.Name, i, file)
			}
		}
	}
}

// get is what m answers over HTTP.
func (m *Member) get(path string) string {
	m.cluster.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: m.cluster.Net.DialContext, DisableKeepAlives: true}, Timeout: attempt}
	resp, err := client.Get(m.ClientURL() + path)
	if err != nil {
		m.cluster.t.Fatalf("GET %s of %s: %v", path, m.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) == 0 {
		m.cluster.t.Fatalf("GET %s of %s: %d bytes, %v", path, m.Name, len(body), err)
	}
	return string(body)
}
