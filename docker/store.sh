#!/bin/sh
# Keep what the MLflow server of compose.yaml knows: runs, logins and artifacts.
#
#   docker/store.sh backup FOLDER     write database.dump and artifacts.tar to a new folder
#   docker/store.sh restore FOLDER    put them back, in place of what is there
#   docker/store.sh upgrade FOLDER    back up, then bring the database to a newer MLflow: after
#                                     building or loading a newer image
#
# The server is stopped in the meantime; trainings go on, and send what is missing afterwards.
set -eu
usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
[ $# = 2 ] || usage
action=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)

compose() { docker compose -f "$here/compose.yaml" "$@"; }
# tar of the server's image, on its volume.
archive() { compose run --rm -T --no-deps --entrypoint tar mlflow -C /data "$@"; }
database() { compose exec -T db "$@" --username famseg; }

backup() {
    if [ -e "$folder/database.dump" ]; then
        echo "$folder holds a backup already; name a new folder" >&2
        exit 2
    fi
    umask 077
    mkdir -p "$folder"
    # Under another name until they are whole.
    database pg_dump --format custom famseg >"$folder/database.part"
    archive -cf - . >"$folder/artifacts.part"
    mv "$folder/artifacts.part" "$folder/artifacts.tar"
    mv "$folder/database.part" "$folder/database.dump"
    echo "$folder: database.dump, artifacts.tar"
}

case $action in
    backup | upgrade) ;;
    restore)
        for name in database.dump artifacts.tar; do
            [ -s "$folder/$name" ] || { echo "$folder/$name is missing" >&2 && exit 2; }
        done
        ;;
    *) usage ;;
esac
compose up -d --wait db
compose stop mlflow
trap 'compose up -d mlflow' EXIT
case $action in
    backup) backup ;;
    restore)
        # Into an empty database: tables of a newer MLflow would stay otherwise.
        database dropdb --if-exists --force --maintenance-db postgres famseg
        database createdb --maintenance-db postgres famseg
        database pg_restore --exit-on-error --no-owner --dbname famseg <"$folder/database.dump"
        archive -xf - <"$folder/artifacts.tar"
        echo "restored from $folder"
        ;;
    upgrade)
        backup
        compose run --rm -T --no-deps mlflow db upgrade postgresql+psycopg://famseg@db:5432/famseg
        echo "upgraded; to go back: docker/store.sh restore $folder, with the image of before"
        ;;
esac
