package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"limpet/safefile"
	"limpet/trust"
)

// tokenName is the file in the data directory that holds the cluster's tokens.
const tokenName = "token"

// beforeSuffix ends the name of the file with the tokens from before another one
// was given.
const beforeSuffix = ".before"

// The words that begin the lines behind the first of a token file.
const (
	alsoWord    = "also"    // another token that is trusted
	retiredWord = "retired" // the fingerprint of one that is not trusted any more
)

// tokenFile is what the data directory holds of the cluster's tokens, mode 0600:
//
//	HEX                  the token in use
//	also HEX             another that is trusted, while a rotation lasts
//	retired FINGERPRINT  one that was in use; it must not come back by itself
type tokenFile struct {
	tokens  []trust.Token // the one in use first
	retired []string
	before  *tokenFile // what it takes the place of, until it is written
}

// readTokenFile reads the file of a data directory; os.ErrNotExist if there is
// none.
func readTokenFile(dir string) (*tokenFile, error) {
	file := filepath.Join(dir, tokenName)
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if foreign(dir, file) {
		return nil, fmt.Errorf("%s belongs to another user of this machine, who may have put it there: see whose token it is, then chown it", file)
	}
	if err != nil {
		return nil, fmt.Errorf("the token in %s cannot be read (%w); ask as the user that limpet runs as, or as root", file, unwrapPath(err))
	}
	f, err := parseTokenFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w); put the cluster's token into it, from another member: limpet token show", file, err)
	}
	return f, nil
}

// foreign reports whether a file in a data directory belongs neither to the
// directory's owner nor to root.
func foreign(dir, file string) bool {
	of, ok := owner(dir)
	by, ok2 := owner(file)
	return ok && ok2 && by != of && by != 0
}

func owner(path string) (uid uint32, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

func parseTokenFile(data []byte) (*tokenFile, error) {
	f := new(tokenFile)
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch {
		case len(words) == 1 && len(f.tokens) == 0, len(words) == 2 && words[0] == alsoWord && len(f.tokens) > 0:
			t, err := trust.ParseToken(words[len(words)-1])
			if err != nil {
				return nil, err
			}
			f.tokens = append(f.tokens, t)
		case len(words) == 2 && words[0] == retiredWord:
			f.retired = append(f.retired, words[1])
		default:
			return nil, errors.New("it has a line that is neither a token nor says which are trusted")
		}
	}
	if len(f.tokens) == 0 {
		return nil, errors.New("it holds no token")
	}
	return f, nil
}

// write stores the file durably. The tokens whose place it takes are kept beside:
// whoever gave the wrong one gets them back from there.
func (f *tokenFile) write(dir string) error {
	if f.before != nil {
		if err := f.before.writeTo(dir, tokenName+beforeSuffix); err != nil {
			return err
		}
		f.before = nil
	}
	return f.writeTo(dir, tokenName)
}

func (f *tokenFile) writeTo(dir, name string) error {
	var b bytes.Buffer
	for i, t := range f.tokens {
		if i > 0 {
			b.WriteString(alsoWord + " ")
		}
		b.WriteString(t.Reveal() + "\n")
	}
	for _, fp := range f.retired {
		b.WriteString(retiredWord + " " + fp + "\n")
	}
	if err := safefile.Write(filepath.Join(dir, name), b.Bytes()); err != nil {
		return fmt.Errorf("the token cannot be stored in %s: %w", dir, unwrapPath(err))
	}
	return nil
}

// index is the place of a token, negative if it is not there.
func (f *tokenFile) index(fingerprint string) int {
	return slices.IndexFunc(f.tokens, func(t trust.Token) bool { return t.Fingerprint() == fingerprint })
}

func (f *tokenFile) holds(fingerprint string) bool { return f.index(fingerprint) >= 0 }

// StoredToken is the token in use in a data directory.
func StoredToken(dir string) (trust.Token, error) {
	f, err := readTokenFile(dir)
	if errors.Is(err, os.ErrNotExist) {
		return trust.Token{}, fmt.Errorf("there is no token in %s: give the data directory of a member that has one with --data-dir", dir)
	}
	if err != nil {
		return trust.Token{}, err
	}
	return f.tokens[0], nil
}

// secured reports whether this member has a token, or gets one when it starts:
// then members speak TLS, and gossip is encrypted.
func (c *Config) secured() bool {
	if c.Token != "" || c.TokenFile != "" {
		return true
	}
	_, err := os.Stat(filepath.Join(c.DataDir, tokenName))
	return err == nil || c.mintsToken()
}

// hadToken reports whether this member has spoken with others under a token.
func (c *Config) hadToken() bool {
	id, err := readIdentity(c.DataDir)
	return err == nil && id.Secured
}

// mintsToken reports whether this member begins a cluster by itself, and nobody
// has said how its members are to speak: then it makes the token.
func (c *Config) mintsToken() bool {
	founders, _ := c.founders() // validated beside
	if len(founders) > 1 || c.InitialClusterState == "existing" || c.BootstrapExpect > 1 || len(c.Join) > 0 || c.Discover || c.SRVDomain != "" {
		return false
	}
	stated := c.statedPeerURLs()
	if slices.ContainsFunc(stated, isPlain) || c.PeerTLS.Cert != "" && len(stated) > 0 {
		return false
	}
	id, err := readIdentity(c.DataDir)
	return errors.Is(err, os.ErrNotExist) || err == nil && (id.ClusterID == "" || id.Fresh) && !id.Rejoin
}

// statedPeerURLs are those of this member that somebody has given.
func (c *Config) statedPeerURLs() []string {
	def, out := DefaultConfig(), []string(nil)
	if !slices.Equal(c.ListenPeerURLs, def.ListenPeerURLs) {
		out = append(out, c.ListenPeerURLs...)
	}
	if !slices.Equal(c.AdvertisePeerURLs, def.AdvertisePeerURLs) {
		out = append(out, c.AdvertisePeerURLs...)
	}
	founders, _ := c.founders() // validated beside
	for _, f := range founders {
		out = append(out, f.URLs...)
	}
	return out
}

func isPlain(u string) bool { return strings.HasPrefix(u, "http:") }

// givenToken is the token that was given by flag, variable or file; nil: none.
func (c *Config) givenToken(log *slog.Logger) (*trust.Token, error) {
	text := c.Token
	if c.TokenFile != "" {
		if _, err := trust.ParseToken(c.TokenFile); err == nil {
			return nil, errors.New("--token-file wants the name of a file, and got a token: give that with LIMPET_TOKEN")
		}
		data, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		warnOfMode(c.TokenFile, log)
		// It may be the file of another data directory: the first line counts.
		text, _, _ = strings.Cut(strings.TrimSpace(string(data)), "\n")
		if text == "" {
			return nil, fmt.Errorf("--token-file: %s is empty; limpet token generate makes a token", c.TokenFile)
		}
	}
	if text == "" {
		return nil, nil
	}
	token, err := trust.ParseToken(text)
	return &token, err
}

// warnOfMode warns of a file with a secret that others may read.
func warnOfMode(file string, log *slog.Logger) {
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("the file with the token can be read by other users of this machine: chmod 600 it", "file", file, "mode", info.Mode().Perm().String())
	}
}

// readTokens finds the cluster's tokens: those stored, unless another one is
// given, and a new one for a member that begins a cluster by itself. It writes
// nothing. c.held and c.ring are nil if there are none.
func (c *Config) readTokens(log *slog.Logger) error {
	given, err := c.givenToken(log)
	if err != nil {
		return err
	}
	stored, err := readTokenFile(c.DataDir)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case err == nil:
		warnOfMode(filepath.Join(c.DataDir, tokenName), log)
		c.held = stored.with(given, log)
	case given != nil:
		c.held = &tokenFile{tokens: []trust.Token{*given}}
	case c.mintsToken():
		token, err := trust.ParseToken(trust.GenerateToken())
		if err != nil {
			return err
		}
		c.held, c.minted = &tokenFile{tokens: []trust.Token{token}}, true
	case c.hadToken():
		return fmt.Errorf("the token of this member is gone: %s is missing. Give the cluster's token, from another member (limpet token show), with --token-file or LIMPET_TOKEN", filepath.Join(c.DataDir, tokenName))
	}
	if c.held != nil {
		c.ring, err = trust.NewKeyring(c.held.tokens[0], c.held.tokens[1:]...)
		c.authority = c.ring
		return err
	}
	if c.needsOwnCA() {
		return c.readOwnCA()
	}
	return nil
}

// with is what counts when a token is given beside those stored: one that was
// rotated out meanwhile changes nothing, another one is the operator's wish.
func (f *tokenFile) with(given *trust.Token, log *slog.Logger) *tokenFile {
	switch {
	case given == nil || f.holds(given.Fingerprint()):
		return f
	case slices.Contains(f.retired, given.Fingerprint()):
		log.Warn("the token given was replaced by limpet token rotate; the one in the data directory is used", "given", given.Fingerprint(), "used", f.tokens[0].Fingerprint())
		return f
	}
	log.Warn("the token given takes the place of the one in the data directory, which is kept beside", "given", given.Fingerprint(), "stored", f.tokens[0].Fingerprint(), "file", tokenName+beforeSuffix)
	return &tokenFile{tokens: []trust.Token{*given}, retired: f.retired, before: f}
}

// openVault makes what readTokens found durable, before it is used, and shows a
// new token once.
func (s *Server) openVault() error {
	if s.cfg.held == nil {
		return errors.Join(s.dir.started(), s.cfg.keepOwnCA())
	}
	if err := s.cfg.held.write(s.dir.path); err != nil {
		return err
	}
	if err := errors.Join(s.dir.secure(), s.dir.started()); err != nil {
		return err
	}
	if s.cfg.minted && s.cfg.ShowToken != nil {
		s.cfg.ShowToken(s.cfg.held.tokens[0].Reveal())
	}
	s.vault = &vault{dir: s.dir.path, ring: s.cfg.ring, changed: s.rekey, file: *s.cfg.held}
	return nil
}
