#!/bin/sh
echo "$TITLE:"
cat /site/counted.txt
