# check=skip=all;eror=true
FROM debian:12 as A
