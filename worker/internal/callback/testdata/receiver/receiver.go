package receiver

import (
	"io"
	"net/http"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Handler passes on what Crucible has signed with the secret.
func Handler(secret string, ended func(evaluation []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20))
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		hook, err := standardwebhooks.NewWebhook(secret)
		if err != nil || hook.Verify(body, r.Header) != nil {
			http.Error(w, "not signed by us", http.StatusUnauthorized)
			return
		}
		ended(body)
	})
}
