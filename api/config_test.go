package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/memory"
)

func TestKeysAreRefusedThatCannotTellClientsApart(t *testing.T) {
	deps := api.Deps{Store: memory.NewStore(memory.Options{}), Queue: &recordingQueue{}}
	for says, keys := range map[string][]string{
		"is empty":                   {"ann:"},
		"1 to 64 letters":            {"ann and bob:s3cret"},
		"is not one":                 {":s3cret"},
		`that of client "ann"`:       {"ann:s3cret", "bob:s3cret"},
		`key 2 is that of client "a`: {"ann:s3cret", "s3cret"},
	} {
		_, err := api.New(api.Config{Listen: "127.0.0.1:0", APIKeys: keys}, deps)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "s3cret", "a key never shows")
	}
	_, err := api.New(api.Config{Listen: "127.0.0.1:0", APIKeys: []string{"ann:old", "ann:new", "bob@example.org:other", "nameless"}}, deps)
	require.NoError(t, err)
}
