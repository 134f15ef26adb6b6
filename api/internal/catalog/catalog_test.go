package catalog_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api/internal/catalog"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// executor answers with its languages.
type executor struct {
	eval.Executor
	languages []eval.Language
	err       error
}

func (e *executor) Status(context.Context) (eval.ExecutorStatus, error) {
	return eval.ExecutorStatus{Languages: e.languages}, e.err
}

func TestALanguageIsWhatTheBestExecutorSays(t *testing.T) {
	missing := eval.Language{ID: "go", Problem: "no go in PATH"}
	checking := eval.Language{ID: "go", Checking: true, Problem: "being checked"}
	there := eval.Language{ID: "go", Available: true, Version: "1.26"}
	for _, tt := range []struct {
		name      string
		say       []eval.Language // one by each executor
		want      eval.Language
		executors []string
	}{
		{"nobody has it", []eval.Language{missing, missing}, missing, []string{}},
		{"one is still checking", []eval.Language{missing, checking}, checking, []string{}},
		{"one has it", []eval.Language{checking, there}, there, []string{"b"}},
		{"one has it, whatever the order", []eval.Language{there, missing}, there, []string{"a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var executors []catalog.Executor
			for i, l := range tt.say {
				executors = append(executors, catalog.Executor{Name: string(rune('a' + i)), Executor: &executor{languages: []eval.Language{l}}})
			}
			c := catalog.New(executors)
			c.States(t.Context())
			all, ok := c.Languages()
			require.True(t, ok)
			require.Len(t, all, 1)
			require.Equal(t, tt.want, all[0].Language)
			require.Equal(t, tt.executors, all[0].Executors)
		})
	}
}

func TestVersionsOfAllExecutorsAreOffered(t *testing.T) {
	a := &executor{languages: []eval.Language{{ID: "go", Available: true, Version: "1.26", Versions: []string{"1.26", "1.25"}}}}
	b := &executor{languages: []eval.Language{{ID: "go", Available: true, Version: "1.25", Versions: []string{"1.25", "1.24"}}}}
	c := catalog.New([]catalog.Executor{{Name: "a", Executor: a}, {Name: "b", Executor: b}})
	c.States(t.Context())
	for range 2 {
		all, _ := c.Languages()
		require.Equal(t, "1.26", all[0].Version)
		require.Equal(t, []string{"1.26", "1.25", "1.24"}, all[0].Versions)
	}
	require.Equal(t, []string{"1.26", "1.25"}, a.languages[0].Versions, "what an executor said stays as it is")
}

func TestEveryNameIsALanguageUntilAnExecutorWasReached(t *testing.T) {
	e := &executor{err: eval.Errorf(eval.KindUnavailable, "not there yet"), languages: []eval.Language{{ID: "go", Aliases: []string{"golang"}, Available: true}}}
	c := catalog.New([]catalog.Executor{{Name: "a", Executor: e}})
	_, ok := c.Find(t.Context(), "cobol")
	require.True(t, ok, "the executor will decide")

	e.err = nil
	again := catalog.New([]catalog.Executor{{Name: "a", Executor: e}})
	l, ok := again.Find(t.Context(), "GoLang")
	require.True(t, ok)
	require.Equal(t, "go", l.ID, "the first name asks the executors: an alias is an alias from the start")
	_, ok = again.Find(t.Context(), "cobol")
	require.False(t, ok)
}
