module github.com/crucible-eval/crucible/worker

go 1.26.0

require github.com/crucible-eval/crucible/pkg v0.0.0

replace github.com/crucible-eval/crucible/pkg => ../pkg
