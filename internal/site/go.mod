module github.com/penstock/penstock/internal/site

go 1.26.6

require github.com/yuin/goldmark v1.8.7
