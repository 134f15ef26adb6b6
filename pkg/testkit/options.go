package testkit

// Option changes how a server is started.
type Option func(*choice)

type choice struct {
	private, aof, fsync bool
	settings            []setting
}

type setting struct{ name, value string }

func choose(options []Option) choice {
	var c choice
	for _, option := range options {
		option(&c)
	}
	return c
}

// Private gives the test a PostgreSQL server of its own, which it may stop, pause and kill. A Redis always is private.
func Private() Option { return func(c *choice) { c.private = true } }

// WithAOF makes Redis write its append-only file, so that its data outlives Stop and Kill9.
func WithAOF() Option { return func(c *choice) { c.aof = true } }

// WithFsync makes a private PostgreSQL wait for the disk at each commit. Without it only the crash of the whole
// machine could lose data, which no test does.
func WithFsync() Option { return func(c *choice) { c.private, c.fsync = true, true } }

// WithSetting sets one line of the server's configuration, such as maxmemory-policy (Redis) or max_connections
// (PostgreSQL, which becomes private by it).
func WithSetting(name, value string) Option {
	return func(c *choice) {
		c.private = true
		c.settings = append(c.settings, setting{name, value})
	}
}
