package discovery

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// warnEvery is how often one warning about one host is repeated.
	warnEvery = 5 * time.Minute
	// maxWarned bounds the hosts remembered; source addresses can be forged.
	// Beyond it, all other hosts share one slot.
	maxWarned = 64
)

// memberLog is where memberlist's log goes. Nearly all of it is debug: nodes
// come and go. Three things an operator can act on, and one that the library
// tells nowhere else, are recognised by their text (of memberlist v0.7.0; tests
// break when it changes). Write may be called concurrently.
type memberLog struct {
	log *slog.Logger
	// suspected is told of each node that did not answer a probe.
	suspected func(node string)
	// where returns the address of a node, "" if unknown.
	where func(node string) string
	now   func() time.Time
	// complain, if set, hears each warning.
	complain func(remote, advice string)

	mu     sync.Mutex // guards warned
	warned map[string]time.Time
}

// complaints are the texts that stand for something an operator can act on.
var complaints = []struct{ text, advice string }{
	{"no installed keys could decrypt the message",
		"gossip from there cannot be decrypted: its token differs from this member's"},
	{"encryption is configured but remote state is not encrypted",
		"gossip from there is not encrypted: it was started without a token"},
	{"remote state is encrypted and encryption is not configured",
		"gossip there is encrypted: it has a token and this member has none"},
	{"over TCP but UDP probes failed",
		"gossip reaches this host over TCP only: let UDP packets to its gossip port pass"},
}

// Write takes one line of memberlist's log.
func (l *memberLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if node, ok := between(text, "memberlist: Suspect ", " has failed, no acks received"); ok {
		l.suspected(node)
	}
	for _, c := range complaints {
		if strings.Contains(text, c.text) {
			l.warn(l.remote(text), c.advice)
			break
		}
	}
	l.log.Debug("gossip: " + text)
	return len(line), nil
}

// warn writes one line about one host every warnEvery.
func (l *memberLog) warn(remote, advice string) {
	host := remote
	if h, _, err := net.SplitHostPort(remote); err == nil {
		host = h
	}
	if l.due(fmt.Sprintf("%s %s", host, advice)) {
		l.log.Warn(advice, "remote", remote)
		if l.complain != nil {
			l.complain(remote, advice)
		}
	}
}

func (l *memberLog) due(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.warned[what]; !known && len(l.warned) >= maxWarned {
		what = "others"
	}
	now := l.now()
	if last, ok := l.warned[what]; ok && now.Sub(last) < warnEvery {
		return false
	}
	if l.warned == nil {
		l.warned = make(map[string]time.Time)
	}
	l.warned[what] = now
	return true
}

// remote finds in a line whom it is about.
func (l *memberLog) remote(text string) string {
	if _, addr, ok := strings.Cut(text, "from="); ok {
		return addr
	}
	if addr, ok := between(text, "failed to join ", ": "); ok {
		return addr
	}
	for _, ends := range [][2]string{{"Push/Pull with ", " failed"}, {"able to connect to ", " over TCP"}} {
		if node, ok := between(text, ends[0], ends[1]); ok {
			if addr := l.where(node); addr != "" {
				return addr
			}
			return node
		}
	}
	return "unknown"
}

// between returns what stands between two parts of text.
func between(text, before, after string) (string, bool) {
	_, rest, ok := strings.Cut(text, before)
	if !ok {
		return "", false
	}
	found, _, ok := strings.Cut(rest, after)
	return found, ok
}
