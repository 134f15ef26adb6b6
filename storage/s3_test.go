package storage_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/storage"
)

// bucket speaks as much of S3 as blobs need: whole and multipart uploads,
// ranges, and deletion.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has given up: nothing shows
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	name, query := strings.TrimPrefix(r.URL.Path, "/evaluations/"), r.URL.Query()
	upload := query.Get("uploadId")
	w.Header().Set("Content-Type", "application/xml")
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		id := strconv.Itoa(len(b.uploads) + 1)
		b.uploads[id] = map[int][]byte{}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case r.Method == http.MethodPut && upload != "":
		part, _ := strconv.Atoi(query.Get("partNumber"))
		b.uploads[upload][part] = body
		w.Header().Set("ETag", `"part"`)
	case r.Method == http.MethodPost && upload != "":
		var whole []byte
		for _, part := range slices.Sorted(maps.Keys(b.uploads[upload])) {
			whole = append(whole, b.uploads[upload][part]...)
		}
		b.objects[name] = whole
		fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>`)
	case r.Method == http.MethodDelete && upload != "":
		delete(b.uploads, upload)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		b.objects[name] = body
		w.Header().Set("ETag", `"whole"`)
	case r.Method == http.MethodDelete:
		delete(b.objects, name)
		w.WriteHeader(http.StatusNoContent)
	case query.Has("list-type"):
		fmt.Fprint(w, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
	default:
		content, found := b.objects[name]
		if !found {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "<Error><Code>NoSuchKey</Code></Error>")
			return
		}
		http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(content))
	}
}

func s3(t *testing.T) (*bucket, *httptest.Server, storage.Config) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	b := &bucket{objects: map[string][]byte{}, uploads: map[string]map[int][]byte{}}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return b, server, storage.Config{Backend: storage.SQLite, BlobsURL: "s3://evaluations?region=eu-north-1&use_path_style=true" +
		"&request_checksum_calculation=when_required&response_checksum_validation=when_required&endpoint=" + server.URL}
}

func TestBlobsInS3(t *testing.T) {
	evaltest.TestBlobs(t, func(t *testing.T) eval.Blobs {
		_, _, cfg := s3(t)
		return open(t, cfg).Blobs
	})
}

func TestS3IsGone(t *testing.T) {
	bucket, server, cfg := s3(t)
	b := open(t, cfg)
	digest, _, err := b.Blobs.Put(t.Context(), strings.NewReader("hello"))
	require.NoError(t, err)
	require.Contains(t, bucket.objects, digest[:2]+"/"+digest)
	require.NoError(t, b.Ready(t.Context()))
	server.Close()
	_, _, err = b.Blobs.Put(t.Context(), strings.NewReader("more"))
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
	require.Equal(t, eval.KindUnavailable, eval.KindOf(b.Ready(t.Context())))
}
