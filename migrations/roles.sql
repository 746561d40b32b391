-- The four roles and who may take them; run before every migration, changes nothing the second time.
DO $$
DECLARE
  name text;
  -- From 16 on, whoever makes a role is its member without the right to take it.
  needed text := CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END;
BEGIN
  FOREACH name IN ARRAY ARRAY['escrowgrid_owner', 'escrowgrid_api', 'escrowgrid_writer', 'escrowgrid_feed'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', name);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this cluster made it
      END;
    END IF;
    IF NOT pg_has_role(current_user, name, needed) THEN
      EXECUTE format('GRANT %I TO %I', name, current_user);
    END IF;
  END LOOP;
END
$$;
GRANT USAGE, CREATE ON SCHEMA public TO escrowgrid_owner;
GRANT USAGE ON SCHEMA public TO escrowgrid_api, escrowgrid_writer, escrowgrid_feed;
