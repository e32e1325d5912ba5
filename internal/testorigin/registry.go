package testorigin

import "net/http"

const (
	opPing        = "Ping"
	opToken       = "Token"
	opGetBlob     = "GetBlob"
	opPatchUpload = "PatchUpload"
	opPutUpload   = "PutUpload"
	opPutManifest = "PutManifest"
)

type registry struct{}

func (g *registry) init() {}

func (rq *request) classifyRegistry() func(*request)                     { return func(*request) {} }
func (rq *request) registryFail(status int, code, message string)        {}
func (rq *request) challenge(params string)                              {}
func (o *Origin) serveRedirected(w http.ResponseWriter, r *http.Request) {}
