package backup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 says where a bucket is, and who asks. The zero value: there is none.
type S3 struct {
	Endpoint      string // host or host:port, or a URL
	Bucket        string
	Folder        string // prefix of the objects' names; may be empty
	Region        string // empty: it is asked for
	AccessKey     string
	SecretKey     string
	SecretKeyFile string // or the file that holds it
	SessionToken  string
	CAFile        string // authorities of the endpoint's certificate, PEM; empty: the system's
	SkipVerify    bool   // believe any certificate
	Insecure      bool   // http instead of https
	Timeout       time.Duration
}

// DefaultS3 is Amazon's.
func DefaultS3() S3 { return S3{Endpoint: "s3.amazonaws.com", Timeout: 5 * time.Minute} }

// Given reports whether there is a bucket.
func (o S3) Given() bool { return o.Bucket != "" }

// Check finds what would keep a bucket from being opened.
func (o S3) Check() error {
	switch {
	case strings.Contains(o.Endpoint, "@"): // is not repeated: it holds a secret
		return errors.New("--s3-endpoint has keys in it, or another name before an @: give host:port alone, and the keys with --s3-access-key and --s3-secret-key-file")
	case o.Bucket == "" && (o.Folder != "" || o.AccessKey != "" || o.SecretKey != "" || o.SecretKeyFile != ""):
		return errors.New("--s3-bucket is missing: the other flags of S3 say how to reach it")
	case o.Bucket == "":
		return nil
	case o.Endpoint == "":
		return errors.New("--s3-endpoint is empty; give host:port of the store, such as s3.amazonaws.com")
	case o.SecretKey != "" && o.SecretKeyFile != "":
		return errors.New("--s3-secret-key and --s3-secret-key-file are both given; give one")
	case (o.AccessKey == "") != (o.SecretKey == "" && o.SecretKeyFile == ""):
		return errors.New("--s3-access-key and --s3-secret-key belong together; give both, or neither to take AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case o.CAFile != "" && o.SkipVerify:
		return errors.New("--s3-endpoint-ca and --s3-skip-ssl-verify contradict each other; give one")
	case o.Timeout <= 0:
		return fmt.Errorf("--s3-timeout is %v, want more than 0", o.Timeout)
	}
	return nil
}

// partBytes is how much of a snapshot is uploaded at a time; a store takes ten
// thousand of them, and S3 none below 5 MiB.
const partBytes = 8 << 20

// tries is how often a request is repeated that did not get through.
const tries = 4

// abortPatience bounds tidying up after an upload that failed, at a store that may
// be gone.
const abortPatience = 5 * time.Second

// sizeKey is metadata of an object: how long the snapshot is.
const sizeKey = "Limpet-Bytes"

// Bucket is a place in a store that speaks S3. HTTPS_PROXY and NO_PROXY count.
type Bucket struct {
	opts   S3
	client *minio.Client
	http   *http.Transport
}

// OpenBucket does not call the store yet.
func OpenBucket(o S3) (*Bucket, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	endpoint, secure, err := o.address()
	if err != nil {
		return nil, err
	}
	creds, err := o.credentials()
	if err != nil {
		return nil, err
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	transport.Proxy = http.ProxyFromEnvironment
	if secure {
		if transport.TLSClientConfig, err = o.tls(); err != nil {
			return nil, err
		}
	}
	client, err := minio.New(endpoint, &minio.Options{Creds: creds, Secure: secure, Region: o.Region, Transport: transport, MaxRetries: tries})
	if err != nil {
		return nil, fmt.Errorf("--s3-endpoint %s: %w", o.Endpoint, err)
	}
	return &Bucket{o, client, transport}, nil
}

// address is the endpoint without a scheme, and whether TLS is spoken there.
func (o S3) address() (endpoint string, secure bool, err error) {
	scheme, rest, found := strings.Cut(o.Endpoint, "://")
	switch {
	case !found:
		return strings.TrimSuffix(o.Endpoint, "/"), !o.Insecure, nil
	case scheme == "https" && !o.Insecure, scheme == "http":
		return strings.TrimSuffix(rest, "/"), scheme == "https", nil
	case scheme == "https":
		return "", false, fmt.Errorf("--s3-insecure means http, and --s3-endpoint is %s; give one or the other", o.Endpoint)
	}
	return "", false, fmt.Errorf("--s3-endpoint is %q, want host:port, https://host:port or http://host:port", o.Endpoint)
}

func (o S3) credentials() (*credentials.Credentials, error) {
	if o.AccessKey == "" {
		return credentials.NewEnvAWS(), nil
	}
	secret := o.SecretKey
	if o.SecretKeyFile != "" {
		data, err := os.ReadFile(o.SecretKeyFile)
		if err != nil {
			return nil, fmt.Errorf("--s3-secret-key-file: %w", err)
		}
		if secret = strings.TrimSpace(string(data)); secret == "" {
			return nil, fmt.Errorf("--s3-secret-key-file: %s is empty", o.SecretKeyFile)
		}
	}
	return credentials.NewStaticV4(o.AccessKey, secret, o.SessionToken), nil
}

func (o S3) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.SkipVerify} // as the operator wishes
	if o.CAFile == "" {
		return cfg, nil
	}
	data, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("--s3-endpoint-ca: %w", err)
	}
	if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("--s3-endpoint-ca: %s holds no certificate in PEM", o.CAFile)
	}
	return cfg, nil
}

// Close lets go of connections.
func (b *Bucket) Close() { b.http.CloseIdleConnections() }

// String implements Place.
func (b *Bucket) String() string { return "s3://" + path.Join(b.opts.Bucket, b.opts.Folder) }

func (b *Bucket) object(name string) string { return path.Join(b.opts.Folder, name) }

// prefix is that of all objects in the folder.
func (b *Bucket) prefix() string {
	if b.opts.Folder == "" {
		return ""
	}
	return strings.Trim(path.Clean(b.opts.Folder), "/") + "/"
}

// limited bounds a request that carries no snapshot.
func (b *Bucket) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, min(b.opts.Timeout, time.Minute))
}

// failed says what a store's error means for whoever runs limpet.
func (b *Bucket) failed(err error) error {
	if err == nil {
		return nil
	}
	at := fmt.Sprintf("%s at %s", b, b.opts.Endpoint)
	r := minio.ToErrorResponse(err)
	switch r.Code {
	case "NoSuchBucket":
		return fmt.Errorf("%s: there is no such bucket: make it first, or give another --s3-bucket", at)
	case "AuthorizationHeaderMalformed", "PermanentRedirect":
		return fmt.Errorf("%s: the bucket is in another region: give it with --s3-region (%s)", at, r.Message)
	}
	if r.StatusCode == http.StatusForbidden { // stores have words of their own
		return fmt.Errorf("%s: the store refuses the keys (%s): see --s3-access-key and --s3-secret-key, and what they may do in the bucket", at, r.Message)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: the store takes longer than --s3-timeout allows, %v for an upload or a download and a minute at most for the rest (%w)", at, b.opts.Timeout, err)
	}
	if unknown := new(x509.UnknownAuthorityError); errors.As(err, unknown) {
		return fmt.Errorf("%s: nobody here vouches for its certificate: give its authority with --s3-endpoint-ca (%w)", at, err)
	}
	return fmt.Errorf("%s: %w", at, err)
}

// List implements Place. A store lists an object only when it is whole.
func (b *Bucket) List(ctx context.Context) ([]Snapshot, error) {
	ctx, cancel := b.limited(ctx)
	defer cancel()
	var out []Snapshot
	for o := range b.client.ListObjects(ctx, b.opts.Bucket, minio.ListObjectsOptions{Prefix: b.prefix()}) {
		if o.Err != nil {
			return nil, b.failed(o.Err)
		}
		s, ok := parse(strings.TrimPrefix(o.Key, b.prefix()))
		if !ok {
			continue
		}
		s.Bytes, s.Modified, s.Location = o.Size, o.LastModified, "s3://"+path.Join(b.opts.Bucket, o.Key)
		out = append(out, s)
	}
	return sorted(out), nil
}

// Put implements Place. The object is there when the store has all of it, and has
// compared it with its hashes.
func (b *Bucket) Put(ctx context.Context, file, name string, progress Progress) (s Snapshot, err error) {
	s, ok := parse(name)
	if !ok {
		return s, fmt.Errorf("%q is no name of a snapshot", name)
	}
	in, err := os.Open(file)
	if err != nil {
		return s, err
	}
	defer func() { _ = in.Close() }() // it was only read
	info, err := in.Stat()
	if err != nil {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.opts.Timeout)
	defer cancel()
	if _, err := b.client.StatObject(ctx, b.opts.Bucket, b.object(name), minio.StatObjectOptions{}); err == nil {
		return s, fmt.Errorf("%s has %s already", b, name)
	}
	s.Bytes, s.Location = info.Size(), b.String()+"/"+name
	up, err := b.send(ctx, in, info.Size(), name, progress, true)
	if minio.ToErrorResponse(err).StatusCode == http.StatusNotImplemented {
		up, err = b.send(ctx, in, info.Size(), name, progress, false)
	}
	if minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed {
		return s, fmt.Errorf("%s has %s already", b, name)
	}
	if err != nil {
		b.abort(name)
		return s, b.failed(err)
	}
	if s.etag = up.ETag; up.Size != info.Size() {
		return s, fmt.Errorf("%s took %d bytes of %d", b, up.Size, info.Size())
	}
	return s, nil
}

// send uploads a file. exclusive: the store is asked to refuse it when another has come
// there meanwhile, which not all stores can, and the client asks for only of what goes
// up in one piece. Withdraw and the names, which no two clusters share, do the rest.
func (b *Bucket) send(ctx context.Context, in *os.File, size int64, name string, progress Progress, exclusive bool) (minio.UploadInfo, error) {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return minio.UploadInfo{}, err
	}
	opts := minio.PutObjectOptions{
		ContentType: "application/octet-stream", UserMetadata: map[string]string{sizeKey: strconv.FormatInt(size, 10)},
		PartSize: partBytes, NumThreads: 1, SendContentMd5: true, Progress: &progressReader{tell: progress, total: size},
	}
	if exclusive && size < partBytes {
		opts.SetMatchETagExcept("*")
	}
	return b.client.PutObject(ctx, b.opts.Bucket, b.object(name), in, size, opts)
}

// Withdraw implements Place: the store's hash of the object says whose it is.
func (b *Bucket) Withdraw(ctx context.Context, s Snapshot) error {
	info, err := b.client.StatObject(ctx, b.opts.Bucket, b.object(s.Name), minio.StatObjectOptions{})
	if minio.ToErrorResponse(err).Code == "NoSuchKey" {
		return nil
	}
	if err != nil {
		return b.failed(err)
	}
	if s.etag == "" || info.ETag != s.etag {
		return fmt.Errorf("%s has been replaced since it was put there", s.Location)
	}
	return b.failed(b.client.RemoveObject(ctx, b.opts.Bucket, b.object(s.Name), minio.RemoveObjectOptions{}))
}

// abort removes what an upload that failed has left at the store. What does not come
// to pass now, Tidy does.
func (b *Bucket) abort(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), abortPatience)
	defer cancel()
	_ = b.client.RemoveIncompleteUpload(ctx, b.opts.Bucket, b.object(name))
}

// Fetch implements Place.
func (b *Bucket) Fetch(ctx context.Context, name string, size func(bytes int64) error, w io.Writer) error {
	if !isName(name) {
		return noName(name)
	}
	ctx, cancel := context.WithTimeout(ctx, b.opts.Timeout)
	defer cancel()
	o, err := b.client.GetObject(ctx, b.opts.Bucket, b.object(name), minio.GetObjectOptions{})
	if err != nil {
		return b.failed(err)
	}
	defer func() { _ = o.Close() }() // it was only read
	info, err := o.Stat()
	if err != nil {
		return b.missing(name, err)
	}
	if err := size(info.Size); err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(o, info.Size))
	if err == nil && n != info.Size {
		err = fmt.Errorf("%s: %d bytes of %d came", name, n, info.Size)
	}
	return b.failed(err)
}

func (b *Bucket) missing(name string, err error) error {
	if minio.ToErrorResponse(err).Code == "NoSuchKey" {
		return fmt.Errorf("%w as %s in %s; see limpet snapshot list", ErrNoSnapshot, name, b)
	}
	return b.failed(err)
}

// Delete implements Place.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	ctx, cancel := b.limited(ctx)
	defer cancel()
	if _, ok := parse(name); !ok {
		return noName(name)
	}
	if _, err := b.client.StatObject(ctx, b.opts.Bucket, b.object(name), minio.StatObjectOptions{}); err != nil {
		return b.missing(name, err)
	}
	return b.failed(b.client.RemoveObject(ctx, b.opts.Bucket, b.object(name), minio.RemoveObjectOptions{}))
}

// Tidy implements Place. Nobody else uploads under the series of this member.
func (b *Bucket) Tidy(ctx context.Context, series string) error {
	ctx, cancel := b.limited(ctx)
	defer cancel()
	for u := range b.client.ListIncompleteUploads(ctx, b.opts.Bucket, b.prefix()+series, false) {
		if u.Err != nil {
			return b.failed(u.Err)
		}
		if s, ok := parse(strings.TrimPrefix(u.Key, b.prefix())); !ok || s.Series != series {
			continue
		}
		if err := b.client.RemoveIncompleteUpload(ctx, b.opts.Bucket, u.Key); err != nil {
			return b.failed(err)
		}
	}
	return nil
}

// Whole implements Place: the store has as many bytes as were put there.
func (b *Bucket) Whole(ctx context.Context, s Snapshot) error {
	ctx, cancel := b.limited(ctx)
	defer cancel()
	info, err := b.client.StatObject(ctx, b.opts.Bucket, b.object(s.Name), minio.StatObjectOptions{})
	if err != nil {
		return b.missing(s.Name, err)
	}
	switch want := info.UserMetadata[sizeKey]; want {
	case "":
		return damaged("%s does not carry its size (%s), as what limpet puts there does", s.Location, sizeKey)
	case strconv.FormatInt(info.Size, 10):
		return nil
	default:
		return damaged("%s has %d bytes, and %s were put there", s.Location, info.Size, want)
	}
}

// progressReader is how the client tells how far it is: it reads from it as much as
// it has sent.
type progressReader struct {
	tell        Progress
	done, total int64
}

// Read implements io.Reader.
func (p *progressReader) Read(b []byte) (int, error) {
	p.done += int64(len(b))
	p.tell.tell(p.done, p.total)
	return len(b), nil
}
