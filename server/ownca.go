package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"limpet/safefile"
	"limpet/trust"
)

// ownCAName is the file in the data directory, mode 0600, of the secret from which
// --auto-tls makes certificates where there is no token: one in the form of a
// token, which no other member knows and which opens nothing between members.
const ownCAName = "auto-tls"

// needsOwnCA reports whether clients are to see an automatic certificate, and
// there is no token to make it of.
func (c *Config) needsOwnCA() bool {
	return c.held == nil && c.AutoTLS && c.ClientTLS.Cert == "" &&
		firstSecure(slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)) != ""
}

// readOwnCA finds the secret, or makes one in memory.
func (c *Config) readOwnCA() error {
	secret, err := readOwnCA(c.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		secret, err = trust.ParseToken(trust.GenerateToken())
		c.ownMinted = &secret
	}
	if err != nil {
		return err
	}
	c.authority, err = trust.NewKeyring(secret)
	return err
}

func readOwnCA(dir string) (trust.Token, error) {
	file := filepath.Join(dir, ownCAName)
	data, err := os.ReadFile(file)
	if err != nil {
		return trust.Token{}, err
	}
	if foreign(dir, file) {
		return trust.Token{}, fmt.Errorf("%s belongs to another user of this machine, who may have put it there: remove it, and the next start makes another", file)
	}
	secret, err := trust.ParseToken(strings.TrimSpace(string(data)))
	if err != nil {
		return trust.Token{}, fmt.Errorf("%s is damaged: remove it, and the next start makes another, of which clients need the certificate then", file)
	}
	return secret, nil
}

// keepOwnCA stores a secret that was made by this start.
func (c *Config) keepOwnCA() error {
	if c.ownMinted == nil {
		return nil
	}
	if err := safefile.Write(filepath.Join(c.DataDir, ownCAName), []byte(c.ownMinted.Reveal()+"\n")); err != nil {
		return fmt.Errorf("the secret of --auto-tls cannot be stored in %s: %w", c.DataDir, unwrapPath(err))
	}
	c.ownMinted = nil
	return nil
}

// StoredAuthority is what the certificates of a data directory's member are made
// of: the token in use, or without one the secret of --auto-tls.
func StoredAuthority(dir string) (trust.Token, error) {
	token, err := StoredToken(dir)
	if err == nil {
		return token, nil
	}
	if secret, ownErr := readOwnCA(dir); !errors.Is(ownErr, os.ErrNotExist) {
		return secret, ownErr
	}
	return trust.Token{}, err
}
