package peer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// noticeEvery is how often the same thing is said at most.
	noticeEvery = time.Minute
	// noticeStays is how long a notice is shown after it last happened.
	noticeStays = 15 * time.Minute
	// noticesKept bounds what strangers can make us remember.
	noticesKept = 256
)

// Notice is something that an operator should know about the way to others.
type Notice struct {
	Time time.Time `json:"time"` // when it last happened
	Text string    `json:"text"`
}

// Notices remembers what was said lately. The zero value is ready; all methods
// may be called concurrently.
type Notices struct {
	mu   sync.Mutex // guards last
	last map[string]*notice
}

type notice struct {
	Notice
	said   time.Time
	stands bool // it is shown as long as the process runs
}

// Stand notes what holds as long as the process runs.
func (n *Notices) Stand(key, msg string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last = make(map[string]*notice)
	}
	now := time.Now()
	n.last[key] = &notice{Notice{now, sentence(msg, args)}, now, true}
}

// Add notes that something happened, with args as those of a log line, and
// reports whether it is time to log it. What has the same key is the same thing.
func (n *Notices) Add(key, msg string, args ...any) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	old := n.last[key]
	if old == nil {
		if n.last == nil {
			n.last = make(map[string]*notice)
		}
		if len(n.last) >= noticesKept {
			maps.DeleteFunc(n.last, func(_ string, l *notice) bool { return !l.stands })
		}
		old = new(notice)
		n.last[key] = old
	}
	old.Notice = Notice{now, sentence(msg, args)}
	if now.Sub(old.said) < noticeEvery {
		return false
	}
	old.said = now
	return true
}

// Recent lists what happened lately, the newest first.
func (n *Notices) Recent() []Notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Notice
	for key, l := range n.last {
		if time.Since(l.Time) > noticeStays && !l.stands {
			delete(n.last, key)
			continue
		}
		out = append(out, l.Notice)
	}
	slices.SortFunc(out, func(a, b Notice) int { return b.Time.Compare(a.Time) })
	return out
}

// sentence is a log line as a person reads it: msg (key value, …): reason.
func sentence(msg string, args []any) string {
	var facts []string
	why := ""
	for i := 0; i+1 < len(args); i += 2 {
		switch key := fmt.Sprint(args[i]); key {
		case "reason", "error":
			why = fmt.Sprintf(": %v", args[i+1])
		default:
			facts = append(facts, fmt.Sprintf("%s %v", key, args[i+1]))
		}
	}
	return msg + " (" + strings.Join(facts, ", ") + ")" + why
}
