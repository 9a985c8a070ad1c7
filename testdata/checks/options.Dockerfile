# check=skip=FromAsCasing,StageNameCasin;error=true
FROM debian:12 as A
# check=skip=JSONArgsRecommended
CMD one
