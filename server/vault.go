package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"

	"limpet/trust"
)

// vault keeps the tokens of this member, on the disk and in use. It implements
// cluster.Tokens.
type vault struct {
	dir     string
	ring    *trust.Keyring
	changed func() // runs after each change, which is durable then

	// mu is held while the tokens change, and are written. It guards file.
	mu   sync.Mutex
	file tokenFile
}

// Fingerprints implements cluster.Tokens.
func (v *vault) Fingerprints() []string { return v.ring.Fingerprints() }

// Reveal implements cluster.Tokens.
func (v *vault) Reveal(fingerprint string) (string, bool) {
	for _, t := range v.ring.Tokens() {
		if t.Fingerprint() == fingerprint {
			return t.Reveal(), true
		}
	}
	return "", false
}

// Mint implements cluster.Tokens.
func (v *vault) Mint() (string, error) {
	t, err := trust.ParseToken(trust.GenerateToken())
	if err != nil {
		return "", err
	}
	return t.Fingerprint(), v.add(t)
}

// Add implements cluster.Tokens.
func (v *vault) Add(fingerprint, text string) error {
	t, err := trust.ParseToken(text)
	if err != nil {
		return errors.New("what another member gave as the new token is none")
	}
	if got := t.Fingerprint(); got != fingerprint {
		return fmt.Errorf("another member gave token %s, want %s", got, fingerprint)
	}
	return v.add(t)
}

func (v *vault) add(t trust.Token) error {
	return v.change(func(f *tokenFile) error {
		if !f.holds(t.Fingerprint()) {
			f.tokens = append(f.tokens, t)
		}
		return nil
	})
}

// Use implements cluster.Tokens.
func (v *vault) Use(fingerprint string) error {
	return v.change(func(f *tokenFile) error {
		i := f.index(fingerprint)
		if i < 0 {
			return fmt.Errorf("token %s is not trusted here", fingerprint)
		}
		t := f.tokens[i]
		f.tokens = slices.Insert(slices.Delete(f.tokens, i, i+1), 0, t)
		return nil
	})
}

// Drop implements cluster.Tokens.
func (v *vault) Drop(fingerprint string) error {
	return v.change(func(f *tokenFile) error {
		switch i := f.index(fingerprint); {
		case i == 0:
			return fmt.Errorf("token %s is in use", fingerprint)
		case i > 0:
			f.tokens = slices.Delete(f.tokens, i, i+1)
			f.retired = append(f.retired, fingerprint)
		}
		return nil
	})
}

// change changes the tokens: first on the disk, so that none is used that a
// crash would lose.
func (v *vault) change(alter func(*tokenFile) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := tokenFile{tokens: slices.Clone(v.file.tokens), retired: slices.Clone(v.file.retired)}
	if err := alter(&f); err != nil {
		return err
	}
	if err := f.write(v.dir); err != nil {
		return err
	}
	if err := v.ring.Set(f.tokens[0], f.tokens[1:]...); err != nil {
		return err
	}
	v.file = f
	v.changed()
	return nil
}

// gossipKeys are the keys of gossip, the one in use first.
func (v *vault) gossipKeys() (key []byte, more [][]byte) { return v.keys(trust.Token.GossipKey) }

// beaconKeys are the keys of the beacon.
func (v *vault) beaconKeys() (key []byte, more [][]byte) { return v.keys(trust.Token.BeaconKey) }

func (v *vault) keys(derive func(trust.Token) []byte) (key []byte, more [][]byte) {
	tokens := v.ring.Tokens()
	for _, t := range tokens[1:] {
		more = append(more, derive(t))
	}
	return derive(tokens[0]), more
}

// rekey has all that is encrypted between members follow the tokens. Whoever is
// connected with a token that is not trusted any more has to come again.
func (s *Server) rekey() {
	if s.gossip != nil {
		key, more := s.vault.gossipKeys()
		if err := s.gossip.SetKeys(key, more...); err != nil {
			s.log.Error("gossip has not taken the keys of the new token: restart this member", "error", err)
		}
	}
	if s.beacon != nil {
		key, more := s.vault.beaconKeys()
		if err := s.beacon.SetKeys(key, more...); err != nil {
			s.log.Error("the beacon has not taken the keys of the new token: restart this member", "error", err)
		}
	}
	s.port.Renew()
	s.port.Recheck()
	s.recheckClients()
}

// recheckClients ends the connections of clients whose certificates follow from a
// token that is not trusted any more.
func (s *Server) recheckClients() {
	if s.cfg.ClientTLS.Cert != "" || s.cfg.ClientTLS.TrustedCA != "" {
		return // others vouch for them
	}
	good := func(c *x509.Certificate) bool {
		_, err := c.Verify(x509.VerifyOptions{Roots: s.cfg.ring.CAs(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err == nil
	}
	s.clients.recheck(good)
	s.web.recheck(good)
	if s.extra != nil {
		s.extra.recheck(good)
	}
}
