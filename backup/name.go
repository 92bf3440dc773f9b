package backup

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// partSuffix ends the names of files that are not whole, or may not be.
const partSuffix = ".part"

// zstdSuffix ends the name of a snapshot that is compressed. Which it is its first
// bytes tell; the name is for people.
const zstdSuffix = ".zst"

// Snapshot is one that is kept somewhere.
type Snapshot struct {
	Name       string    `json:"name"` // file name: Series, a dash, Unix seconds, and .zst if it is compressed
	Series     string    `json:"series"`
	Cluster    string    `json:"cluster_id,omitempty"` // 16 hex digits; empty: the name does not tell
	Created    time.Time `json:"created"`
	Bytes      int64     `json:"bytes"` // as it is kept
	Location   string    `json:"location"`
	Modified   time.Time `json:"-"` // by the clock of the store; only in a bucket
	Compressed bool      `json:"compressed"`
	etag       string    // of what Put has put into a bucket
}

// clusterDigits is how many hex digits a cluster's ID has in names.
const clusterDigits = 16

// Series is the part of the names that snapshots of one kind, member and cluster
// share: name, member and the cluster's ID, with dashes between. What does not fit
// into a file name, or an object's, becomes an underscore. So does a dash in the
// member's name, so that what is before it is the name, whatever dashes that has.
//
// Clusters whose members have the same names, as two of board1 to board3, may keep
// their snapshots in the same place: each has series of its own.
func Series(name, member string, cluster uint64) string {
	return fmt.Sprintf("%s-%s-%0*x", plain(name), strings.ReplaceAll(plain(member), "-", "_"), clusterDigits, cluster)
}

// splitSeries is the opposite of Series; false: it is of a name of before, which had
// no cluster in it, or was given by hand.
func splitSeries(series string) (name, cluster string, ok bool) {
	rest, cluster, _ := cutLast(series)
	name, _, ok = cutLast(rest)
	if !ok || len(cluster) != clusterDigits || strings.Trim(cluster, "0123456789abcdef") != "" {
		return "", "", false
	}
	return name, cluster, true
}

// cutLast cuts at the last dash that has something before it.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '-')
	if i <= 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, s)
}

// maxName is how long a file's name may be.
const maxName = 255

// isName reports whether a snapshot may be asked for under a name. What a store lists
// is not to be believed: no name leads out of a folder, or writes on a terminal.
func isName(name string) bool {
	return name != "" && len(name) <= maxName && plain(name) == name && !strings.HasPrefix(name, ".")
}

// noName is the error for the others.
func noName(name string) error {
	return fmt.Errorf("%w: %q is no name of a snapshot; see limpet snapshot list", ErrNoSnapshot, name)
}

// CheckName refuses what would not be a part of a file name as it is.
func CheckName(name string) error {
	if !isName(name) {
		return fmt.Errorf("%q cannot begin the names of snapshots: give letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

func nameOf(series string, at time.Time, compressed bool) string {
	name := fmt.Sprintf("%s-%d", series, at.Unix())
	if compressed {
		name += zstdSuffix
	}
	return name
}

// parse reads a name; false: it is no snapshot's that limpet named.
func parse(name string) (Snapshot, bool) {
	stem, compressed := strings.CutSuffix(name, zstdSuffix)
	series, text, ok := cutLast(stem)
	if !ok || !isName(name) {
		return Snapshot{}, false
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || strconv.FormatInt(seconds, 10) != text {
		return Snapshot{}, false
	}
	_, cluster, _ := splitSeries(series)
	return Snapshot{Name: name, Series: series, Cluster: cluster, Created: time.Unix(seconds, 0).UTC(), Compressed: compressed}, true
}
