package platform

import (
	"cmp"
	"time"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Log is how a program logs.
type Log struct {
	LogLevel  string `group:"Logging and tracing" env:"CRUCIBLE_LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"How much to log: ${enum}."`
	LogFormat string `group:"Logging and tracing" env:"CRUCIBLE_LOG_FORMAT" default:"auto" enum:"auto,text,json" help:"How to log: text, json, or auto: text on a terminal, else json."`

	OTLPEndpoint string  `name:"otlp-endpoint" group:"Logging and tracing" env:"CRUCIBLE_OTLP_ENDPOINT,OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL" help:"Send traces to this OTLP/HTTP collector, such as http://127.0.0.1:4318. Without it nothing is traced."`
	TraceRatio   float64 `group:"Logging and tracing" env:"CRUCIBLE_TRACE_RATIO" default:"1" help:"Which part of new traces to keep, 0 to 1."`
}

// Queue is where the queue lives.
type Queue struct {
	RedisURL config.URL `name:"redis-url" group:"Queue" env:"CRUCIBLE_REDIS_URL" placeholder:"URL" help:"The Redis of the queue: redis://[user:password@]host:port/db, or rediss:// for TLS. crucible up without it has a queue of its own in memory, which is rebuilt from the storage at each start."`
}

// Keep is where evaluations and large outputs are kept.
type Keep struct {
	Backend     string     `group:"Storage" env:"CRUCIBLE_BACKEND" default:"" enum:",memory,file,sqlite,postgres" placeholder:"NAME" help:"memory, file, sqlite or postgres. Default: postgres when there is a database URL, else sqlite."`
	DataDir     string     `group:"Storage" env:"CRUCIBLE_DATA_DIR" placeholder:"DIR" help:"Folder of everything that is kept in files. Default: crucible in $$XDG_DATA_HOME, which is ~/.local/share when not set."`
	DatabaseURL config.URL `name:"database-url" group:"Storage" env:"CRUCIBLE_DATABASE_URL" placeholder:"URL" help:"PostgreSQL: postgres://user:password@host/database."`
	BlobsURL    config.URL `name:"blobs-url" group:"Storage" env:"CRUCIBLE_BLOBS_URL" placeholder:"URL" help:"Where outputs above 64 KiB are kept: file:///folder, mem:// or s3://bucket?region=... Default: blobs in the data folder."`
	Durable     bool       `group:"Storage" env:"CRUCIBLE_DURABLE" help:"Let SQLite wait for the disk at each commit, so that not even a power cut loses what was accepted."`

	Retention       time.Duration `group:"Storage" env:"CRUCIBLE_RETENTION" default:"720h" help:"How long evaluations are kept after they have completed or were cancelled, with their outputs. 0: for ever. All storages on one database need the same."`
	RetentionFailed time.Duration `group:"Storage" env:"CRUCIBLE_RETENTION_FAILED" default:"2160h" help:"How long failed evaluations are kept, and with them the dead letters. 0: for ever."`
}

// StandIn is what an API remembers of its storage, and what it does without it.
type StandIn struct {
	CacheSize    config.Size `group:"Storage" env:"CRUCIBLE_CACHE_SIZE" default:"32MiB" help:"Memory for evaluations that have ended, so that reading one again does not ask the storage. 0: none."`
	FallbackDir  string      `group:"Storage" env:"CRUCIBLE_FALLBACK_DIR" placeholder:"DIR" help:"Accept evaluations while the storage is away, into a journal in this folder, from where they are brought to the storage when it is back. Each API needs a folder of its own, that outlives the process. Default: none; requests are then refused with 503."`
	FallbackSize config.Size `group:"Storage" env:"CRUCIBLE_FALLBACK_SIZE" default:"64MiB" help:"The most that the fallback journal takes, on disk and about as much in memory."`
}

// Door is who may come in.
type Door struct {
	AllowInsecure bool     `group:"Access" env:"CRUCIBLE_ALLOW_INSECURE" help:"Listen beyond loopback without credentials: only behind something that authenticates."`
	AllowedHosts  []string `name:"allowed-host" group:"Access" env:"CRUCIBLE_ALLOWED_HOSTS" placeholder:"HOST" help:"Names that are accepted in the Host header, besides those of loopback, when there are no credentials. May be repeated."`
}

// Keys are what clients of the API show.
type Keys struct {
	APIKeys         []config.Secret `name:"api-key" group:"Access" env:"CRUCIBLE_API_KEYS" placeholder:"KEY" help:"Credentials that clients of the API may send: KEY or NAME:KEY. May be repeated. Without any, none are needed and the API listens on loopback only."`
	MonitorReadOnly bool            `group:"Access" env:"CRUCIBLE_MONITOR_READ_ONLY" help:"/monitor shows the queues and cannot change them."`
}

// Quota is how much clients may submit.
type Quota struct {
	ClientRate   float64  `group:"Clients" env:"CRUCIBLE_CLIENT_RATE" default:"0" help:"Evaluations that a client may submit in a second, in the long run. 0: no bound."`
	ClientBurst  int      `group:"Clients" env:"CRUCIBLE_CLIENT_BURST" default:"0" help:"As many at once, after a pause. 0: ten seconds' worth of the rate."`
	ClientQueued int64    `group:"Clients" env:"CRUCIBLE_CLIENT_QUEUED" default:"20000" help:"Evaluations of a client that may wait. 0: no bound."`
	QueueDepth   int64    `group:"Clients" env:"CRUCIBLE_QUEUE_DEPTH" default:"100000" help:"Evaluations of all clients that may wait. 0: no bound."`
	ClientLimits []string `name:"client-limits" group:"Clients" env:"CRUCIBLE_CLIENT_LIMITS" sep:";" placeholder:"NAME:LIMITS" help:"Other limits for a client, by the name of its API key, such as ci:rate=20,burst=200,queued=50000. What is not named is as for all. May be repeated; in the environment, semicolons stand between."`
}

// Config is an error when the limits of a client cannot be read.
func (q Quota) Config() (api.Quota, error) {
	each := api.Limits{Rate: q.ClientRate, Burst: q.ClientBurst, Queued: q.ClientQueued}
	return api.NewQuota(each, q.QueueDepth, q.ClientLimits)
}

// Token is what the services show each other.
type Token struct {
	ServiceToken config.Secret `group:"Access" env:"CRUCIBLE_SERVICE_TOKEN" placeholder:"TOKEN" help:"Credential between the services. All of them need the same; without it executors and storages listen on loopback only."`
}

// Sandbox is how programs run.
type Sandbox struct {
	Slots        int           `group:"Execution" env:"CRUCIBLE_SLOTS" default:"0" help:"How many programs run at once. 0: one for each CPU."`
	Isolation    string        `group:"Execution" env:"CRUCIBLE_ISOLATION" default:"" placeholder:"LEVEL" help:"Run at this level and no other: gvisor, namespaces, namespaces-rlimit, landlock, or none. Default: the strongest of the middle three that this machine allows."`
	AllowUnsafe  bool          `group:"Execution" env:"CRUCIBLE_ALLOW_UNSAFE" help:"Let --isolation=none run programs with nothing between them and this machine."`
	Runsc        string        `group:"Execution" env:"CRUCIBLE_RUNSC" default:"" placeholder:"FILE" help:"gVisor's program, for --isolation=gvisor. Default: runsc beside crucible or in PATH."`
	MinIsolation string        `group:"Execution" env:"CRUCIBLE_MIN_ISOLATION" default:"" placeholder:"LEVEL" help:"Refuse to start in a sandbox weaker than this: gvisor, namespaces, namespaces-rlimit or landlock."`
	ProveEvery   time.Duration `group:"Execution" env:"CRUCIBLE_PROVE_EVERY" default:"5m" help:"How often the sandbox proves again what it isolates, while nothing runs. Negative: only when a box failed."`
	LanguagesDir string        `group:"Execution" env:"CRUCIBLE_LANGUAGES_DIR" default:"" placeholder:"DIR" help:"Folder with language files (YAML) that are added to the built-in ones."`
	Warm         string        `group:"Execution" env:"CRUCIBLE_WARM" enum:"off,prestart,fork" default:"fork" help:"How far to go to spare a run the start of its interpreter: off, prestart (one waits, and is used once) or fork (runs of one project are copies of one)."`
}

// Executor returns the settings as an executor takes them.
func (s Sandbox) Executor() executor.Config {
	return executor.Config{
		Slots: s.Slots, Warm: eval.Warm(s.Warm), LanguagesDir: s.LanguagesDir, ProveEvery: s.ProveEvery,
		Isolation: s.Isolation, AllowUnsafe: s.AllowUnsafe, RunscPath: s.Runsc, MinIsolation: s.MinIsolation,
	}
}

// Life is by which numbers evaluations live.
type Life struct {
	PoisonAfter   int           `group:"Life" env:"CRUCIBLE_POISON_AFTER" default:"3" help:"Give up an evaluation that took down this many workers or executors while nothing else ran there."`
	MaxLost       int           `group:"Life" env:"CRUCIBLE_MAX_LOST" default:"10" help:"Give up an evaluation whose worker or executor vanished this often, whoever is to blame."`
	FullFor       time.Duration `group:"Life" env:"CRUCIBLE_FULL_FOR" default:"24h" help:"How long an evaluation may wait for a free slot, after it was to run."`
	AgeAfter      time.Duration `group:"Life" env:"CRUCIBLE_AGE_AFTER" default:"1m" help:"How long an evaluation waits for its turn until it is raised by one priority, and again each time as long. None becomes critical in this way."`
	FirstLook     time.Duration `group:"Life" env:"CRUCIBLE_FIRST_LOOK" default:"5s" help:"When to check for the first time that an accepted evaluation is in the queue."`
	ClientRunning int           `group:"Clients" env:"CRUCIBLE_CLIENT_RUNNING" default:"0" help:"Evaluations of one client that run at once, or are about to. 0: no bound."`
}

// Rules are the settings as a store takes them; what is left out is as eval.DefaultRules has it.
func (l Life) Rules() eval.Rules {
	r := eval.DefaultRules()
	r.PoisonAfter, r.MaxLost = cmp.Or(l.PoisonAfter, r.PoisonAfter), cmp.Or(l.MaxLost, r.MaxLost)
	r.FullFor, r.FirstLook = cmp.Or(l.FullFor, r.FullFor), cmp.Or(l.FirstLook, r.FirstLook)
	r.AgeAfter = cmp.Or(l.AgeAfter, r.AgeAfter)
	r.MaxRunning = l.ClientRunning
	return r
}

// Work is how workers work.
type Work struct {
	Concurrency    int           `group:"Work" env:"CRUCIBLE_CONCURRENCY" default:"0" help:"How many evaluations a worker has in hand at once. 0: as many as its executors have slots."`
	Lease          time.Duration `group:"Work" env:"CRUCIBLE_LEASE" default:"15s" help:"How long an evaluation stays with a worker that is not heard of. A worker that is killed delays its evaluations by this."`
	Beat           time.Duration `group:"Work" env:"CRUCIBLE_BEAT" default:"0" help:"How often a worker renews the lease of what it runs: at most a third of the lease. 0: a third."`
	ReconcileEvery time.Duration `group:"Work" env:"CRUCIBLE_RECONCILE_EVERY" default:"250ms" help:"How often a worker looks for evaluations that were forgotten."`
	Window         int           `group:"Work" env:"CRUCIBLE_WINDOW" default:"8" help:"How many evaluations of one priority wait in Redis at least, while more wait in the store for their turn. More do where there are many slots, or where they are taken quickly."`
	Again          time.Duration `group:"Work" env:"CRUCIBLE_AGAIN" default:"15s" help:"How long an evaluation that was put into the queue is trusted to be there."`
}

// Stop is how a program ends.
type Stop struct {
	DrainTimeout time.Duration `group:"Work" env:"CRUCIBLE_DRAIN_TIMEOUT" default:"30s" help:"How long running programs may go on after SIGTERM. What has not ended then is queued again."`
}
