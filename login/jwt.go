package login

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"limpet/auth"
)

// JWT signs and reads tokens that need no memory: claims username, revision and
// exp, as etcd's (server/v3/auth/jwt.go), so that either accepts the other's. All
// methods may be called concurrently.
type JWT struct {
	method  jwt.SigningMethod
	sign    any // nil: it only reads
	verify  any
	ttl     time.Duration
	parsing *jwt.Parser
}

// ParseJWT reads what follows "jwt," in etcd's --auth-token: sign-method=M, with
// pub-key=FILE, priv-key=FILE, or both, and ttl=DURATION.
func ParseJWT(options string) (*JWT, error) {
	opts := make(map[string]string)
	for _, pair := range strings.Split(options, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if _, twice := opts[k]; !ok || twice || strings.Contains(v, "=") {
			return nil, fmt.Errorf("%q is no option, or given twice; want sign-method=M,pub-key=FILE,priv-key=FILE,ttl=10m", pair)
		}
		opts[k] = v
	}
	j := &JWT{method: jwt.GetSigningMethod(opts["sign-method"]), ttl: DefaultTokenTTL}
	if j.method == nil || j.method == jwt.SigningMethodNone {
		return nil, fmt.Errorf("sign-method is %q; want RS256, ES256, PS256, HS256, another size of these, or EdDSA", opts["sign-method"])
	}
	if s := opts["ttl"]; s != "" {
		var err error
		if j.ttl, err = time.ParseDuration(s); err != nil {
			return nil, fmt.Errorf("ttl is %q; want a duration such as 10m", s)
		}
	}
	if err := j.readKeys(opts["pub-key"], opts["priv-key"]); err != nil {
		return nil, err
	}
	j.parsing = jwt.NewParser(jwt.WithValidMethods([]string{j.method.Alg()}))
	return j, nil
}

func (j *JWT) readKeys(public, private string) error {
	pub, err := readKey(public)
	if err != nil {
		return err
	}
	priv, err := readKey(private)
	if err != nil {
		return err
	}
	if pub == nil && priv == nil {
		return errors.New("neither pub-key nor priv-key is given")
	}
	if _, ok := j.method.(*jwt.SigningMethodHMAC); ok {
		if priv == nil {
			return errors.New("this sign-method has one key for both sides: give it as priv-key")
		}
		j.sign, j.verify = priv, priv
		return nil
	}
	if pub != nil {
		if j.verify, err = parsePublic(j.method, pub); err != nil {
			return fmt.Errorf("%s is no public key for this sign-method: %w", public, err)
		}
	}
	if priv == nil {
		return nil
	}
	key, err := parsePrivate(j.method, priv)
	if err != nil {
		return fmt.Errorf("%s is no private key for this sign-method", private) // its error may show the key
	}
	own := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if pub != nil && !own.Equal(j.verify) {
		return errors.New("pub-key and priv-key do not belong together")
	}
	j.sign, j.verify = key, own
	return nil
}

func readKey(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err == nil && len(data) == 0 {
		return nil, fmt.Errorf("%s is empty: with it as a key anybody could make tokens", file)
	}
	return data, err
}

func parsePublic(method jwt.SigningMethod, pem []byte) (any, error) {
	switch method.(type) {
	case *jwt.SigningMethodECDSA:
		return jwt.ParseECPublicKeyFromPEM(pem)
	case *jwt.SigningMethodEd25519:
		return jwt.ParseEdPublicKeyFromPEM(pem)
	}
	return jwt.ParseRSAPublicKeyFromPEM(pem)
}

func parsePrivate(method jwt.SigningMethod, pem []byte) (crypto.Signer, error) {
	switch method.(type) {
	case *jwt.SigningMethodECDSA:
		return signer[*ecdsa.PrivateKey](jwt.ParseECPrivateKeyFromPEM(pem))
	case *jwt.SigningMethodEd25519:
		key, err := jwt.ParseEdPrivateKeyFromPEM(pem)
		if err != nil {
			return nil, err
		}
		return signer[ed25519.PrivateKey](key.(ed25519.PrivateKey), nil)
	}
	return signer[*rsa.PrivateKey](jwt.ParseRSAPrivateKeyFromPEM(pem))
}

// signer keeps a nil key from becoming a signer.
func signer[K crypto.Signer](key K, err error) (crypto.Signer, error) {
	if err != nil {
		return nil, err
	}
	return key, nil
}

// Sign returns a token for a user whose password was right at a revision;
// auth.ErrVerifyOnly without a private key.
func (j *JWT) Sign(user string, revision uint64) (string, error) {
	if j.sign == nil {
		return "", auth.ErrVerifyOnly
	}
	return jwt.NewWithClaims(j.method, jwt.MapClaims{
		"username": user, "revision": revision, "exp": time.Now().Add(j.ttl).Unix(),
	}).SignedString(j.sign)
}

// Caller tells whose token it is; auth.ErrInvalidToken if it is not valid any
// more, or never was.
func (j *JWT) Caller(token string) (auth.Caller, error) {
	claims := jwt.MapClaims{}
	_, err := j.parsing.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return j.verify, nil })
	user, hasUser := claims["username"].(string)
	revision, hasRevision := claims["revision"].(float64)
	if err != nil || !hasUser || !hasRevision {
		return auth.Caller{}, auth.ErrInvalidToken
	}
	return auth.Caller{User: user, Revision: uint64(revision)}, nil
}
