module github.com/crucible-eval/crucible/executor

go 1.26.0

require github.com/crucible-eval/crucible/pkg v0.0.0

require go.yaml.in/yaml/v3 v3.0.5 // indirect

require (
	github.com/elastic/go-seccomp-bpf v1.6.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
	golang.org/x/net v0.59.0
	golang.org/x/sys v0.49.0
	gopkg.in/yaml.v3 v3.0.1 // indirect
)

replace github.com/crucible-eval/crucible/pkg => ../pkg
