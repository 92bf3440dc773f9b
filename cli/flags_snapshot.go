package cli

import (
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/backup"
	"limpet/server"
)

// snapshotSettings lists the flags of the snapshots that members take by themselves.
func snapshotSettings() []setting {
	type C = server.Config
	return append([]setting{
		text("snapshot-schedule", catSnapshots, "when to take one, as cron has it: minute, hour, day of the month, month, day of the week; off takes none. Nothing is written while nothing has changed", func(c *C) *string { return &c.Snapshots.Schedule }),
		number("snapshot-retention", catSnapshots, "how many of this member's to keep, in the folder and in the bucket", func(c *C) *int { return &c.Snapshots.Retention }),
		text("snapshot-dir", catSnapshots, "folder for them; on another disk they survive this one (default: snapshots in the data directory)", func(c *C) *string { return &c.Snapshots.Dir }),
		text("snapshot-name", catSnapshots, "what their names begin with; the member's name, the cluster's ID and the time follow", func(c *C) *string { return &c.Snapshots.Name }),
		boolean("snapshot-compress", catSnapshots, "compress them, where that pays", func(c *C) *bool { return &c.Snapshots.Compress }),
	}, s3Settings()...)
}

// s3Settings are the flags of a bucket, by the names that k3s gives them.
func s3Settings() []setting {
	type C = server.Config
	get := func(c *C) *backup.S3 { return &c.Snapshots.S3 }
	field := func(name, usage string, of func(*backup.S3) *string) setting {
		return text(name, catSnapshots, usage, func(c *C) *string { return of(get(c)) })
	}
	return []setting{
		field("s3-bucket", "bucket of a store that speaks S3, where the leader uploads its snapshots; it must be there", func(o *backup.S3) *string { return &o.Bucket }),
		field("s3-endpoint", "the store, as host:port, or a URL", func(o *backup.S3) *string { return &o.Endpoint }),
		field("s3-folder", "folder in the bucket", func(o *backup.S3) *string { return &o.Folder }),
		field("s3-region", "region of the bucket (default: the store is asked)", func(o *backup.S3) *string { return &o.Region }),
		field("s3-access-key", "name of the key (default: AWS_ACCESS_KEY_ID, with AWS_SECRET_ACCESS_KEY)", func(o *backup.S3) *string { return &o.AccessKey }),
		field("s3-secret-key", "the key's secret; better given as LIMPET_S3_SECRET_KEY, which no process list shows, or as a file", func(o *backup.S3) *string { return &o.SecretKey }),
		field("s3-secret-key-file", "file that holds the secret", func(o *backup.S3) *string { return &o.SecretKeyFile }),
		field("s3-session-token", "token of keys that were lent for a while", func(o *backup.S3) *string { return &o.SessionToken }),
		field("s3-endpoint-ca", "authorities of the store's certificate, PEM (default: the system's)", func(o *backup.S3) *string { return &o.CAFile }),
		boolean("s3-skip-ssl-verify", catSnapshots, "believe any certificate of the store", func(c *C) *bool { return &get(c).SkipVerify }),
		boolean("s3-insecure", catSnapshots, "speak http with the store", func(c *C) *bool { return &get(c).Insecure }),
		duration("s3-timeout", catSnapshots, "time that one upload or download may take; HTTPS_PROXY and NO_PROXY count", func(c *C) *time.Duration { return &get(c).Timeout }),
	}
}

// s3Flags are the flags of a bucket for a command that is no server.
func s3Flags() []cli.Flag {
	var out []cli.Flag
	for _, s := range s3Settings() {
		switch f := s.flag.(type) {
		case *cli.StringFlag:
			f.Category, f.EnvVars = "", envNames(s.name)[:1]
			if s.name == "s3-bucket" {
				f.Usage = "bucket of a store that speaks S3, instead of a folder"
			}
		case *cli.BoolFlag:
			f.Category, f.EnvVars = "", envNames(s.name)[:1]
		case *cli.DurationFlag:
			f.Category, f.EnvVars = "", envNames(s.name)[:1]
		}
		out = append(out, s.flag)
	}
	return out
}

// s3Of reads what s3Flags say.
func s3Of(c *cli.Context) (backup.S3, error) {
	cfg := server.DefaultConfig()
	for _, s := range s3Settings() {
		if err := s.apply(c, &cfg); err != nil {
			return backup.S3{}, err
		}
	}
	return cfg.Snapshots.S3, cfg.Snapshots.S3.Check()
}

// errSecretInFile: a configuration file is everybody's to read.
var errSecretInFile = errors.New("a configuration file can be read by all users of this machine: write the secret into a file of its own, readable for limpet alone, and give that with --s3-secret-key-file")
