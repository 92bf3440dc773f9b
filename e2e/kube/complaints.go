package kube

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// storeComplaint matches what a store's log must not hold: etcd's zap lines,
// slog's JSON and text lines of level error and above, and a dying Go program.
var storeComplaint = regexp.MustCompile(`(?i)"level":"(error|dpanic|panic|fatal)"|\blevel=error|^panic:|^fatal error:|DATA RACE`)

// etcdPardon matches what etcd 3.7 logs as an error at each orderly end: its
// listeners have been closed, by itself.
var etcdPardon = regexp.MustCompile(`setting up serving from embedded etcd failed`)

// apiComplaint matches what the API server says when a store breaks its word: a
// watch event without its previous value, or a cache that differs from the
// store.
var apiComplaint = regexp.MustCompile(`(?i)PrevKv=nil|panic|^fatal error:|consistency check failed`)

// apiPardon matches lines that hold the word panic to say that there was none.
var apiPardon = regexp.MustCompile(`panicked: false`)

// logOffset is how far a log has been searched.
type logOffset map[string]int64

// complaints returns the lines of a log, beyond what was searched before, that
// match and have no pardon; at most ten, as one fault tends to repeat.
func (o logOffset) complaints(log string, match, pardon *regexp.Regexp) ([]string, error) {
	text, err := os.ReadFile(log)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fresh := text[min(o[log], int64(len(text))):]
	o[log] = int64(len(text))
	var found []string
	for line := range strings.Lines(string(fresh)) {
		if pardon != nil && pardon.MatchString(line) {
			continue
		}
		if match.MatchString(line) && len(found) < 10 {
			found = append(found, filepath.Base(log)+": "+strings.TrimSpace(line))
		}
	}
	return found, nil
}
