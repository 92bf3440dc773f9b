package backup

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when snapshots are due. nil: never.
type Schedule interface {
	// Next is the first moment after t.
	Next(t time.Time) time.Time
}

// mostOften is how often snapshots are taken at most.
const mostOften = time.Minute

// ParseSchedule reads what cron(8) would: minute, hour, day, month and day of the week,
// or @daily, @every 6h and the like. Empty or off: there is none.
func ParseSchedule(text string) (Schedule, error) {
	text = strings.TrimSpace(text)
	if text == "" || text == "off" {
		return nil, nil
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("--snapshot-schedule is %q, want minute, hour, day of the month, month and day of the week, such as 0 */12 * * *, or @daily, or off: %w", text, err)
	}
	if now := time.Now(); s.Next(now).IsZero() {
		return nil, fmt.Errorf("--snapshot-schedule is %q, which never comes", text)
	}
	if every, ok := s.(cron.ConstantDelaySchedule); ok && every.Delay < mostOften { // all others come by minutes
		return nil, fmt.Errorf("--snapshot-schedule is %q: a snapshot reads and writes all there is, and once a minute is the most; every few hours is usual", text)
	}
	return s, nil
}
