-- The four roles and who may take them; run before every migration, changes nothing the second time.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['escrowgrid_owner', 'escrowgrid_api', 'escrowgrid_writer', 'escrowgrid_feed'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', name);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this cluster made it
      END;
    END IF;
    IF NOT pg_has_role(current_user, name, 'MEMBER') THEN
      EXECUTE format('GRANT %I TO %I', name, current_user);
    END IF;
  END LOOP;
END
$$;
GRANT USAGE, CREATE ON SCHEMA public TO escrowgrid_owner;
GRANT USAGE ON SCHEMA public TO escrowgrid_api, escrowgrid_writer, escrowgrid_feed;
