package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// when is a point in history, as the operator names it.
type when struct {
	rev int64     // 0: none was named
	at  time.Time // zero: none was named; neither: now
}

// whenHelp says how points in history are named, and by which rule a time becomes
// a revision.
const whenHelp = "A TIME is written as 2006-01-02T15:04:05Z (RFC 3339), as 2006-01-02 15:04 or\n" +
	"2006-01-02 15:04:05 or 2006-01-02 in this machine's time zone, or as a duration\n" +
	"ago: 10m, 2h, 3d. It means the newest revision whose time is not later. The time\n" +
	"of a revision is what the clock of the member showed that took the request; such\n" +
	"clocks may be wrong, and jump, so look at limpet history when it matters.\n" +
	"History goes back to the last compaction."

// layouts are of times without a zone, which are local.
var layouts = []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02"}

// parseTime reads a TIME; now is the clock.
func parseTime(text string, now time.Time) (time.Time, error) {
	at, err := readTime(text, now)
	switch {
	case err != nil:
		return at, err
	case at.After(now):
		return at, fmt.Errorf("%q is in the future by this machine's clock, which shows %s", text, now.Format("2006-01-02 15:04:05 MST"))
	case at.UnixMilli() <= 0:
		return at, fmt.Errorf("%q is before all history", text)
	}
	return at, nil
}

func readTime(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	for _, layout := range layouts {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q is no time; write 2006-01-02T15:04:05Z, 2006-01-02 15:04, or a duration ago such as 10m, 2h or 3d", text)
	}
	return now.Add(-d), nil
}

// parseWhen reads a revision, a TIME, or now.
func parseWhen(text string, now time.Time) (when, error) {
	if text == "now" {
		return when{}, nil
	}
	if strings.Trim(text, "0123456789") == "" && text != "" {
		rev, err := parseRevision(text)
		return when{rev: rev}, err
	}
	at, err := parseTime(text, now)
	return when{at: at}, err
}

func parseRevision(text string) (int64, error) {
	rev, err := strconv.ParseInt(text, 10, 64)
	if err != nil || rev < 1 {
		return 0, fmt.Errorf("%q is no revision; they are numbers from 1 on, see limpet history and limpet status", text)
	}
	return rev, nil
}

// oneMoment reads the flags --rev and --at.
func oneMoment(rev string, at string, now time.Time) (w when, err error) {
	switch {
	case rev != "" && at != "":
		return w, errors.New("--rev and --at exclude each other; give one")
	case rev != "":
		if w.rev, err = parseRevision(rev); err != nil {
			err = fmt.Errorf("--rev: %w", err)
		}
	case at != "":
		if w.at, err = parseTime(at, now); err != nil {
			err = fmt.Errorf("--at: %w", err)
		}
	}
	return w, err
}

// momentText is a time in Unix milliseconds for people.
func momentText(unixMilli int64) string {
	if unixMilli <= 0 {
		return "-"
	}
	return time.UnixMilli(unixMilli).Format("2006-01-02 15:04:05.000")
}

// momentJSON is a time in Unix milliseconds for programs; empty: unknown.
func momentJSON(unixMilli int64) string {
	if unixMilli <= 0 {
		return ""
	}
	return time.UnixMilli(unixMilli).UTC().Format("2006-01-02T15:04:05.000Z")
}
