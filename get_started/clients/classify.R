# Ask the API for the class of a picture: Rscript classify.R MODEL PICTURE
# Needs the packages curl and jsonlite; on Debian: apt install r-cran-curl r-cran-jsonlite
suppressPackageStartupMessages(library(curl))
library(jsonlite)

arguments <- commandArgs(trailingOnly = TRUE)
address <- paste0(Sys.getenv("CLASSIFY_URL", "http://127.0.0.1:8080"), "/predictions/", arguments[1])
login <- paste0(Sys.getenv("CLASSIFY_USER"), ":", Sys.getenv("CLASSIFY_PASSWORD"))
picture <- readBin(arguments[2], "raw", file.size(arguments[2]))
for (attempt in 1:30) {
  request <- new_handle(customrequest = "PUT", httpauth = 1, userpwd = login, postfields = picture)
  handle_setheaders(request, "Content-Type" = "application/octet-stream", Expect = "")
  response <- curl_fetch_memory(address, request)
  if (response$status_code != 503) break
  Sys.sleep(as.numeric(c(parse_headers_list(response$headers)[["retry-after"]], 1)[1]))
}
answer <- fromJSON(rawToChar(response$content))
if (response$status_code != 200) {
  # 401: wrong user or password; 422: the picture is broken, or not of the model's kind
  message(response$status_code, ": ", answer$message)
  quit(status = 1)
}
keys <- c("class", "score", "threshold", "cannot_tell")
cat(paste0(keys, "=", sapply(answer[keys], format, digits = 6), collapse = " "), "\n", sep = "")
