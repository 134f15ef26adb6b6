package callback

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// What a secret looks like, by the Standard Webhooks specification.
const (
	secretPrefix   = "whsec_"
	minSecretBytes = 24
	maxSecretBytes = 64
)

// Signer signs requests by the Standard Webhooks specification: HMAC-SHA256
// over id, time and body.
type Signer struct{ keys []*standardwebhooks.Webhook }

// NewSigner takes one secret, or several while they are rotated: a request is
// signed with each, and a receiver that knows any of them is content. The
// errors do not repeat a secret.
func NewSigner(secrets []string) (*Signer, error) {
	s := &Signer{}
	for i, secret := range secrets {
		raw, found := strings.CutPrefix(secret, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(raw)
		if !found || err != nil || len(key) < minSecretBytes || len(key) > maxSecretBytes {
			return nil, fmt.Errorf("callback secret %d is not whsec_ and the base64 of %d to %d random bytes; make one with: echo whsec_$(openssl rand -base64 32)",
				i+1, minSecretBytes, maxSecretBytes)
		}
		signer, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			return nil, fmt.Errorf("callback secret %d: %w", i+1, err)
		}
		s.keys = append(s.keys, signer)
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("callbacks are on and there is no secret to sign them with; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	return s, nil
}

// sign adds the three headers of the specification.
func (s *Signer) sign(h http.Header, id string, now time.Time, body []byte) error {
	signatures := make([]string, len(s.keys))
	for i, key := range s.keys {
		var err error
		if signatures[i], err = key.Sign(id, now, body); err != nil {
			return fmt.Errorf("sign the callback: %w", err)
		}
	}
	h.Set(standardwebhooks.HeaderWebhookID, id)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return nil
}
