module github.com/crucible-eval/crucible/cmd

go 1.26.0

require (
	github.com/crucible-eval/crucible/api v0.0.0
	github.com/crucible-eval/crucible/executor v0.0.0
	github.com/crucible-eval/crucible/pkg v0.0.0
	github.com/crucible-eval/crucible/storage v0.0.0
	github.com/crucible-eval/crucible/worker v0.0.0
)

require (
	github.com/alecthomas/kong v1.17.0 // indirect
	github.com/rogpeppe/go-internal v1.16.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)

replace (
	github.com/crucible-eval/crucible/api => ../api
	github.com/crucible-eval/crucible/executor => ../executor
	github.com/crucible-eval/crucible/pkg => ../pkg
	github.com/crucible-eval/crucible/storage => ../storage
	github.com/crucible-eval/crucible/worker => ../worker
)
