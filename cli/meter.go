package cli

import (
	"fmt"
	"io"
	"os"
	"time"
)

// meterPause is the least time between two lines of a meter.
const meterPause = 200 * time.Millisecond

// meter tells on a terminal how far something is, in a line that it writes over.
type meter struct {
	w     io.Writer // nil: nobody looks
	what  string
	began time.Time
	last  time.Time
	now   func() time.Time
}

func newMeter(what string) *meter {
	m := &meter{what: what, began: time.Now(), now: time.Now}
	if isTerminal(os.Stderr) {
		m.w = os.Stderr
	}
	return m
}

// tell is a backup.Progress.
func (m *meter) tell(done, total int64) {
	now := m.now()
	if m.w == nil || now.Sub(m.last) < meterPause {
		return
	}
	m.last = now
	of := ""
	if total > 0 {
		of = " of " + bytesText(total)
	}
	rate := int64(float64(done) / max(now.Sub(m.began).Seconds(), 0.001))
	_, _ = fmt.Fprintf(m.w, "\r%s: %s%s, %s/s \x1b[K", m.what, bytesText(done), of, bytesText(rate))
}

// end clears the line.
func (m *meter) end() {
	if m.w != nil && !m.last.IsZero() {
		_, _ = fmt.Fprint(m.w, "\r\x1b[K")
	}
}
